"""MNIST: a residual network, trained on half B, that reads labels and nothing else."""

from pocketddpm.metrics.extractor import Asset

ROLE = "judge"
WEIGHTS = {
    "mnist": Asset(
        "digits-judge.safetensors",
        "4a93c3d8f90e1930b7906419592464da598d0478eb4bc02c7481547d34f6f708",
    )
}
MOMENTS: dict[str, Asset] = {}
