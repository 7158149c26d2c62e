"""The same numbers from the same features: this package, torchmetrics and torch-fidelity.

    python benchmarks/metrics_beside_peers.py [n]

Features of n (10,000) real MNIST test images against n of half B; once as they are, once with the
mean moved 100 deviations from 0, where sums in float32 show. Prints JSON.
"""

import json
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from pocketddpm.metrics.classifier_scores import class_score
from pocketddpm.metrics.frechet import Moments, frechet_distance
from pocketddpm.metrics.kid import kernel_distance
from pocketddpm.metrics.reference_data import load_reference_data
from pocketddpm.metrics.split import random_indices, split_halves
from pocketddpm.models.provenance import versions


class Given(nn.Module):
    """The 'network' of features that are there already, [N,1,1,D] -> [N,D]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_features = size

    def forward(self, x: Tensor) -> Tensor:
        """Return the features."""
        return x[:, 0, 0]


def frechet_distances(fake: Tensor, real: Tensor) -> dict[str, float]:
    """Return all Frechet distances of features [N,D]."""
    found = {"pocketddpm": frechet_distance(Moments.of(fake), Moments.of(real))}
    for dtype in (torch.float32, torch.float64):
        fid = FrechetInceptionDistance(Given(fake.shape[1]), input_img_size=(1, 1, fake.shape[1]))
        fid.set_dtype(dtype)
        for features, is_real in ((real, True), (fake, False)):
            fid.update(features[:, None, None].to(dtype), real=is_real)
        found[f"torchmetrics {dtype}"] = fid.compute().item()
        statistics = [fid_features_to_statistics(f.to(dtype)) for f in (fake, real)]
        theirs = fid_statistics_to_metric(*statistics, False)
        found[f"torch-fidelity {dtype}"] = theirs["frechet_inception_distance"]
    return found


def kernel_distances(fake: Tensor, real: Tensor) -> dict[str, float]:
    """Return the kernel distance of all pairs, and of random subsets with three seeds."""
    found = {"pocketddpm": kernel_distance(fake, real).value}
    size = min(1000, len(fake))
    for seed in range(3):
        torch.manual_seed(seed)
        kid = KernelInceptionDistance(Given(fake.shape[1]), subset_size=size)
        kid.update(real[:, None, None], real=True)
        kid.update(fake[:, None, None], real=False)
        found[f"torchmetrics seed {seed}"] = kid.compute()[0].item()
        theirs = kid_features_to_metric(
            fake, real, kid_subsets=100, kid_subset_size=size, rng_seed=seed, verbose=False
        )
        found[f"torch-fidelity seed {seed}"] = theirs["kernel_inception_distance_mean"]
    return found


def class_scores(logits: Tensor) -> dict[str, float]:
    """Return the class score of the whole, and of ten parts."""
    score = InceptionScore(Given(logits.shape[1]))
    score.update(logits[:, None, None])
    theirs = isc_features_to_metric(logits)
    return {
        "pocketddpm": class_score(logits).value,
        "torchmetrics": score.compute()[0].item(),
        "torch-fidelity": theirs["inception_score_mean"],
    }


def main() -> None:
    """Measure and print."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    reference = load_reference_data("mnist")
    assert reference.train is not None and reference.test is not None
    extractor = reference.spaces[0].extractor
    half_b = split_halves(len(reference.train))[1]
    real = extractor(reference.train.images[half_b[random_indices(len(half_b), n)]]).values
    mine = extractor(reference.test.images[random_indices(len(reference.test), n)])
    fake, logits = mine.values, mine.logits
    assert logits is not None
    far = 100 * fake.std()
    result: dict[str, Any] = {
        **versions(),
        "n": n,
        "Frechet distance": frechet_distances(fake, real),
        "Frechet distance, mean 100 deviations from 0": frechet_distances(fake + far, real + far),
        "kernel distance": kernel_distances(fake, real),
        "class score": class_scores(logits),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
