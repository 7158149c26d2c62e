"""Any data set: the first 64 principal coordinates of the pixels; no network, nothing to please."""

from pocketddpm.metrics.extractor import Asset

ROLE = "metric"
# For other data sets the directions are found on the spot.
WEIGHTS = {
    "mnist": Asset(
        "pixels-pca-mnist.safetensors",
        "c4cd275819c4338b2fca7bdd63786b2c582ea606a7d8080a16f7db9ff8bd68e4",
    ),
    "fashion-mnist": Asset(
        "pixels-pca-fashion-mnist.safetensors",
        "b88ee2c36eeddd597241daa9734aee86151e0e577398ca5bd35335eadf0da3d7",
    ),
}
MOMENTS = {
    "mnist": Asset(
        "pixels-pca-mnist-moments.safetensors",
        "46c5fbb018078efe9684763172f0339714d30b4ff74a36af63e3708ee118befc",
    ),
    "fashion-mnist": Asset(
        "pixels-pca-fashion-mnist-moments.safetensors",
        "1214f42ddcafa5f1a7323c6ee57eccebc11a085a55dfe7e08615990b6de56d0a",
    ),
}
