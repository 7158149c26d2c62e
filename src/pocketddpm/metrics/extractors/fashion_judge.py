"""Fashion-MNIST: a residual network, trained on half B, that reads labels only."""

from pocketddpm.metrics.extractor import Asset

ROLE = "judge"
WEIGHTS = {
    "fashion-mnist": Asset(
        "fashion-judge.safetensors",
        "3bda8ddcbe7d708ba68db2624e05a79ba41d5c5647420276cdb157429306ffcd",
    )
}
MOMENTS: dict[str, Asset] = {}
