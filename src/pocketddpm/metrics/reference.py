"""What real images look like to an extractor: moments of half B, and of the test set (the floor).

Shipped for the built-in data sets, so that distances need no data on the disk; computed for others.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pocketddpm.errors import DataError
from pocketddpm.metrics.classifier_scores import class_score
from pocketddpm.metrics.extractor import Asset, Extractor, Features, save_tensors
from pocketddpm.metrics.frechet import Moments, frechet_distance, predicted_bias


@dataclass(frozen=True)
class Reference:
    """half_b, test: moments of real images. score: the class score of the test set, if any."""

    half_b: Moments
    test: Moments
    score: float | None = None

    def floor(self, n: int) -> float:
        """Return the Frechet distance to expect of n real test images.

        That of the whole test set, plus what having n of them adds for a Gaussian.
        """
        more = predicted_bias(self.half_b, n) - predicted_bias(self.half_b, self.test.n)
        return frechet_distance(self.test, self.half_b) + more


def save_reference(
    path: Path, reference: Reference, extractor: Extractor, facts: dict[str, Any]
) -> str:
    """Write a reference for one extractor; return the file's sha256."""
    tensors: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for name, moments in (("half_b", reference.half_b), ("test", reference.test)):
        tensors |= {f"{name}.total": moments.total, f"{name}.outer": moments.outer}
        counts[name] = moments.n
    stored = {**facts, "extractor": extractor.sha256, "n": counts, "score": reference.score}
    return save_tensors(path, tensors, stored)


def load_reference(asset: Asset, extractor: Extractor) -> Reference:
    """Return a shipped reference; DataError when it is altered or another extractor's."""
    facts, tensors = asset.open()
    if facts["extractor"] != extractor.sha256:
        raise DataError(f"{asset.file} was made with another version of {extractor.name}")

    def moments(name: str) -> Moments:
        total, outer = tensors[f"{name}.total"], tensors[f"{name}.outer"]
        return Moments(int(facts["n"][name]), total, outer)

    return Reference(moments("half_b"), moments("test"), facts["score"])


def make_reference(half_b: Features, test: Features) -> Reference:
    """Return the reference that features of half B and of the test set give."""
    score = None if test.logits is None else class_score(test.logits).value
    return Reference(Moments.of(half_b.values), Moments.of(test.values), score)
