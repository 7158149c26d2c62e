"""Fashion-MNIST: 128 features of a small network trained on half A of the training set."""

from pocketddpm.metrics.extractor import Asset

ROLE = "metric"
WEIGHTS = {
    "fashion-mnist": Asset(
        "fashion-cnn.safetensors",
        "9ef72bf50f1c7e9ffb565f87707c7aa868b0bad78d9892cae28ab489d2782912",
    )
}
MOMENTS = {
    "fashion-mnist": Asset(
        "fashion-cnn-moments.safetensors",
        "cd5f39b9c8f44b89ae736618ba92677220730a0881826e894d920509c3d4a9fe",
    )
}
