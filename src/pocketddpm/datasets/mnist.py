"""Handwritten digits, 28x28 grey, 60,000 for training and 10,000 for testing (LeCun et al., 1998).

Source: http://yann.lecun.com/exdb/mnist/ (IDX files). The checksums are of the uncompressed bytes,
so that a copy is accepted however it was compressed.
"""

from functools import partial
from typing import Literal

from pocketddpm.data.idx import load_idx_set

FLIP = False
FIT: Literal["pad", "resize"] = "pad"

CLASSES = tuple("0123456789")
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

load = partial(load_idx_set, "mnist", "MNIST", MIRRORS, SHA256, CLASSES)
