"""Numbers from a classifier's logits: the class score (Inception score) and label agreement."""

import torch
from torch import Tensor

from pocketddpm.data.image_set import ImageSet
from pocketddpm.metrics.extractor import Features
from pocketddpm.metrics.intervals import Interval, bootstrap, share_interval


def class_score(logits: Tensor) -> Interval:
    """Return exp(mean_i KL(p(y|x_i) || p(y))) (arXiv 1606.03498), with a bootstrap interval.

    p(y) is the mean over all images, not over splits of them. logits: [N,K]. It lies in 1..K, and
    is near K for every set that the classifier reads well, where it no longer tells sets apart.
    """
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    negative_entropy = (p * log_p).sum(1)  # of p(y|x_i), [N]

    def score(counts: Tensor) -> float:
        weights = counts.double() / counts.sum()
        marginal = weights @ p
        marginal_term = (marginal * marginal.clamp(min=1e-300).log()).sum()
        return float((weights @ negative_entropy - marginal_term).exp())

    ones = torch.ones(len(p), dtype=torch.int64)
    return bootstrap(len(p), score(ones), score, within=(1.0, float(p.shape[1])))


def agreement(features: Features, images: ImageSet) -> Interval:
    """Return the share of labelled images whose label a classifier's features agree with."""
    assert features.logits is not None and images.labels is not None
    return share_interval(features.logits.argmax(1) == torch.from_numpy(images.labels))
