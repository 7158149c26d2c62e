"""MNIST: 128 features of a small network trained on half A of the training set."""

from pocketddpm.metrics.extractor import Asset

ROLE = "metric"
WEIGHTS = {
    "mnist": Asset(
        "digits-cnn.safetensors", "9c23837d789200a8121fdfc24f9b265bc999ba8c4e4fba13f3e0423e93436472"
    )
}
MOMENTS = {
    "mnist": Asset(
        "digits-cnn-moments.safetensors",
        "f4423ce175608ea19205cccc7bec71da10c5ee86baf3fc8197c2c359abcc7873",
    )
}
