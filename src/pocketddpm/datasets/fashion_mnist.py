"""Articles of clothing, 28x28 grey, 60,000 for training and 10,000 for testing (Zalando, 2017).

Source: https://github.com/zalandoresearch/fashion-mnist (arXiv 1708.07747; IDX files). The
checksums are of the uncompressed bytes, so that a copy is accepted however it was compressed.
"""

from functools import partial
from typing import Literal

from pocketddpm.data.idx import load_idx_set

FLIP = False
FIT: Literal["pad", "resize"] = "pad"

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
           "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")  # fmt: skip
# The first serves no https; the checksums make that safe.
MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}

load = partial(load_idx_set, "fashion-mnist", "FashionMNIST", MIRRORS, SHA256, CLASSES)
