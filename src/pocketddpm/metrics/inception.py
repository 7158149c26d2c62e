"""`inception`: Inception-v3's 2048 features, those of published FIDs; slow on a CPU.

The network of FID-inception-2015-12-05 as torch-fidelity gives it. Grey images are tiled to three
channels; uint8 is enlarged to 299x299 bilinearly, without antialiasing and as TensorFlow 1 did it,
which is what published numbers were made with. The class score is that of its 1008 classes.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from pocketddpm.data.download import find, find_or_download
from pocketddpm.errors import ConfigError, DataError
from pocketddpm.metrics.extractor import Extractor
from pocketddpm.metrics.extractors import INCEPTION

SHA256 = "6726825d"  # its first digits, which the file's name states
FILE = f"weights-inception-2015-12-05-{SHA256}.pth"
PLACES = (FILE, f"inception/{FILE}")
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"


class Inception(nn.Module):
    """torch-fidelity's network behind the interface of the other extractors."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        # torchvision, which it needs, fails with a RuntimeError beside another torch.
        except (ImportError, RuntimeError) as error:
            raise ConfigError(
                f"the extractor inception needs torch-fidelity ({error}): "
                "pip install 'pocketddpm[inception]'"
            ) from None
        wanted = ["2048", "logits_unbiased"]
        self.network = FeatureExtractorInceptionV3("inception", wanted, str(weights))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B,2048] and logits [B,1008] of images [B,1 or 3,H,W] in 0..1."""
        whole = (255 * x).round().byte()  # x is k / 255: the same bytes again
        features, logits = self.network(whole.expand(-1, 3, -1, -1))
        return features, logits


def has_inception() -> bool:
    """Return whether the weights, and what reads them, are there without a download."""
    return find(PLACES) is not None and find_spec("torch_fidelity") is not None


def load_inception(shape: tuple[int, int, int]) -> Extractor:
    """Return the extractor for images of this shape, from a file under a data root or a download.

    Raises DataError when the weights are not found, ConfigError without torch-fidelity.
    """

    def read(path: Path) -> Extractor:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if not sha256.startswith(SHA256):
            raise DataError(
                f"{path}: its sha256 begins with {sha256[:8]}, expected {SHA256}; download it again"
            )
        try:
            # torch-fidelity unpickles without restriction: refuse all but tensors first.
            torch.load(path, map_location="cpu", weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError) as error:
            raise DataError(f"{path} is not a file of tensors; download it again") from error
        facts = {"architecture": "inception-v3", "data": "ImageNet", "half": None}
        return Extractor(INCEPTION, sha256, Inception(path).eval(), shape, (), facts)

    try:
        return find_or_download(PLACES, [URL], read)
    except DataError as error:
        raise DataError(f"the extractor inception needs its weights ({URL}): {error}") from None
