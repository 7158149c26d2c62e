"""Numbers from a classifier's verdicts: inception-style score and label agreement."""

import torch
from torch import Tensor

from pocketddpm.metrics.intervals import Estimate, bootstrap, of_mean


def class_score(logits: Tensor, *, seed: int = 0) -> Estimate:
    """Return exp(mean_i KL(p(y|x_i) || p(y))) (arXiv 1606.03498), with a bootstrap interval.

    p(y) is the mean over all of the images, not over splits of them. logits: [N,K]. It lies in
    1..K, ends near K for every data set that the classifier reads well, and can't tell there.
    """
    log_p = logits.double().log_softmax(1)
    p = log_p.exp()
    own = (p * log_p).sum(1)  # minus the entropy of p(y|x_i), [N]

    def score(counts: Tensor) -> float:
        weights = counts.double() / counts.sum()
        marginal = weights @ p
        return float((weights @ own - (marginal * marginal.clamp(min=1e-300).log()).sum()).exp())

    ones = torch.ones(len(p), dtype=torch.int64)
    return bootstrap(len(p), score(ones), score, seed=seed)


def agreement(logits: Tensor, labels: Tensor) -> Estimate:
    """Return the share of images whose label the judge agrees with; logits [N,K], labels [N]."""
    return of_mean(logits.argmax(1) == labels)
