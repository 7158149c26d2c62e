"""Each number against an independent implementation, a closed form, and asymmetric data."""

from dataclasses import replace
from math import comb

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import DataError
from pocketddpm.metrics.classifier_scores import agreement, class_score
from pocketddpm.metrics.extractor import Features
from pocketddpm.metrics.frechet import Moments, frechet_distance, predicted_bias
from pocketddpm.metrics.intervals import (
    Interval,
    bootstrap,
    difference,
    mean_interval,
    never_negative,
    positive_interval,
    ratio,
    resample_counts,
    share_interval,
)
from pocketddpm.metrics.kid import kernel_distance
from pocketddpm.metrics.memorisation import distinct_share, nearest, suspects
from pocketddpm.metrics.precision_recall import ball_radii, neighbourhoods
from pocketddpm.metrics.protocol import frechet
from pocketddpm.metrics.split import random_indices, split_halves


def normal(n: int, d: int, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    """Correlated Gaussian features [n,d], float32."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99)) / d**0.5
    return torch.randn(n, d, generator=g) @ (mix * scale) + shift


def exact(mean: list[float], covariance: list[list[float]], n: int = 1000) -> Moments:
    """Moments with exactly this mean and covariance."""
    m, s = (torch.tensor(v, dtype=torch.float64) for v in (mean, covariance))
    return Moments(n, n * m, (n - 1) * s + n * torch.outer(m, m))


# Moments and the Frechet distance ----------------------------------------------------------------


def test_moments_are_those_of_numpy():
    f = normal(50, 6, shift=3.0)
    moments = Moments.of(f)
    np.testing.assert_allclose(moments.mean, f.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(f.double().numpy().T), rtol=1e-11)


def test_counts_are_repetitions():
    f, counts = normal(5, 3), torch.tensor([2, 0, 1, 3, 1])
    counted, repeated = Moments.of(f, counts), Moments.of(f.repeat_interleave(counts, 0))
    assert counted.n == repeated.n == 7
    torch.testing.assert_close(counted.outer, repeated.outer)
    torch.testing.assert_close(counted.total, repeated.total)


def test_frechet_distance_is_scipys():
    a, b = normal(400, 24, 1), normal(300, 24, 2, shift=0.3, scale=1.4)
    mine = frechet_distance(Moments.of(a), Moments.of(b))
    s, t = (np.cov(x.double().numpy().T) for x in (a, b))
    gap = a.double().mean(0) - b.double().mean(0)
    root = sqrtm(s @ t)
    truth = float(gap @ gap) + np.trace(s + t - 2 * np.real(root))
    assert mine == pytest.approx(truth, rel=1e-9)
    assert frechet_distance(Moments.of(b), Moments.of(a)) == pytest.approx(mine, rel=1e-9)


def test_frechet_distance_is_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(torch.nn.Module):
        num_features = 8

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, 0, 0, :]

    a, b = normal(200, 8, 1), normal(150, 8, 2, shift=0.5)
    fid = FrechetInceptionDistance(feature=Identity(), normalize=False, input_img_size=(1, 1, 8))
    fid.set_dtype(torch.float64)
    fid.update(a[:, None, None, :], real=True)
    fid.update(b[:, None, None, :], real=False)
    mine = frechet_distance(Moments.of(a), Moments.of(b))
    assert mine == pytest.approx(fid.compute().item(), rel=1e-6)


def test_torch_fidelity_agrees_on_the_same_features():
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    real, fake = normal(200, 8, 1).double(), normal(200, 8, 2, shift=0.5).double()
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (fake, real)), False)
    mine = frechet_distance(Moments.of(fake), Moments.of(real))
    assert mine == pytest.approx(theirs["frechet_inception_distance"], rel=1e-9)
    # One subset of all images is no subset.
    theirs = kid_features_to_metric(fake, real, kid_subsets=1, kid_subset_size=200, verbose=False)
    mine = kernel_distance(fake, real).value
    assert mine == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    theirs = isc_features_to_metric(fake, splits=1)
    assert class_score(fake).value == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    found = neighbourhoods(real, fake)
    mine = [terms.double().mean().item() for terms in (found.precision, found.recall)]
    assert mine == pytest.approx(calculate_precision_recall_full(fake, real))
    assert mine[0] != mine[1]


def test_frechet_distance_of_copies_is_zero():
    """Up to what float32 features are rounded by: no number remains to divide by."""
    generator = torch.Generator().manual_seed(0)
    few = torch.randn(3, 20, generator=generator).repeat(50, 1) + 5
    jitter = few * (1 + 1e-7 * torch.randn(few.shape, generator=generator))
    for a, b in ((few, few), (few[:1].repeat(9, 1), few[:1].repeat(7, 1)), (few, jitter)):
        assert frechet_distance(Moments.of(a), Moments.of(b)) == 0
    assert frechet_distance(Moments.of(few), Moments.of(few * 1.0001)) > 0


def test_frechet_distance_of_gaussians_in_closed_form():
    # Commuting covariances: |m1 - m2|^2 + sum (sqrt(l1) - sqrt(l2))^2.
    a = exact([1.0, 2.0], [[4.0, 0.0], [0.0, 9.0]])
    b = exact([0.0, 4.0], [[1.0, 0.0], [0.0, 25.0]])
    assert frechet_distance(a, b) == pytest.approx(1 + 4 + 1 + 4, rel=1e-12)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    c = exact([0.0, 0.0], (turn @ torch.diag(torch.tensor([4.0, 9.0]).double()) @ turn.T).tolist())
    d = exact([0.0, 0.0], (turn @ torch.diag(torch.tensor([1.0, 25.0]).double()) @ turn.T).tolist())
    assert frechet_distance(c, d) == pytest.approx(1 + 4, rel=1e-10)


def test_frechet_distance_survives_fewer_images_than_features():
    # All images on one line: d^2 = (s1 - s2)^2 though both covariances have rank 1.
    line = torch.linspace(-1, 1, 11).double()
    direction = torch.nn.functional.normalize(normal(1, 64).double(), dim=1)
    a, b = line[:, None] * direction, 3 * line[:, None] * direction
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(
        (2 * line.std().item()) ** 2, rel=1e-6
    )
    assert frechet_distance(Moments.of(a), Moments.of(a)) == pytest.approx(0, abs=1e-6)


def test_moments_refuse_what_has_none():
    with pytest.raises(DataError, match=r"2 .* 1$"):
        frechet_distance(Moments.of(torch.ones(1, 3)), Moments.of(torch.ones(5, 3)))
    with pytest.raises(DataError):
        Moments.of(torch.tensor([[1.0, float("nan")]]))


def test_predicted_bias_is_what_simulation_finds():
    reference = Moments.of(normal(200_000, 12, 1))
    for n in (100, 400):
        found = [frechet_distance(Moments.of(normal(n, 12, 2 + k)), reference) for k in range(200)]
        assert predicted_bias(reference, n) == pytest.approx(np.mean(found), rel=0.05)


# Kernel distance ---------------------------------------------------------------------------------


def naive_kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_kernel_distance_is_the_double_sum():
    x, y = normal(23, 4, 1), normal(17, 4, 2, shift=0.7)
    truth = naive_kernel_distance(x.double().numpy(), y.double().numpy())
    assert kernel_distance(x, y).value == pytest.approx(truth, rel=1e-10)
    assert kernel_distance(y, x).value == pytest.approx(truth, rel=1e-10)


def test_kernel_distance_is_torchmetrics_with_one_subset_of_all():
    from torchmetrics.functional import image as _  # noqa: F401 (torchmetrics is installed)
    from torchmetrics.image.kid import poly_mmd

    x, y = normal(200, 8, 1).double(), normal(200, 8, 2, shift=0.3).double()
    assert kernel_distance(x, y).value == pytest.approx(poly_mmd(x, y).item(), rel=1e-9)


def test_kernel_distance_does_not_depend_on_the_block(monkeypatch):
    x, y = normal(90, 6, 1), normal(70, 6, 2, shift=0.2)
    whole = kernel_distance(x, y)
    monkeypatch.setattr("pocketddpm.metrics.kid.BLOCK", 13)
    assert kernel_distance(x, y).value == pytest.approx(whole.value, rel=1e-11)
    assert kernel_distance(x, y).low == pytest.approx(whole.low, rel=1e-11)


def test_kernel_distance_of_gaussians_in_closed_form():
    # In one dimension, N(0, s^2) and N(0, t^2): MMD^2 = 3 (s^2 - t^2)^2.
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(5000, 1, generator=g), 1.5 * torch.randn(5000, 1, generator=g)
    found, truth = kernel_distance(x, y), 3 * (1 - 2.25) ** 2
    assert found.low < truth < found.high
    assert found.high - found.low < truth / 2


def test_kernel_distance_has_no_bias():
    values = [kernel_distance(normal(40, 4, k), normal(30, 4, 500 + k)).value for k in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 300**0.5
    with pytest.raises(DataError, match=r"2 .* 1 and 5$"):
        kernel_distance(normal(1, 4), normal(5, 4))


# Neighbours --------------------------------------------------------------------------------------


def naive_neighbourhoods(real: np.ndarray, fake: np.ndarray) -> dict[str, float]:
    def radii(x: np.ndarray, k: int) -> np.ndarray:
        return np.array([sorted(np.linalg.norm(x - a, axis=1))[k] for a in x])  # [0] is itself

    d = np.linalg.norm(real[:, None] - fake[None], axis=2)  # [N,M]
    r3, r5, f3 = radii(real, 3), radii(real, 5), radii(fake, 3)
    return {
        "precision": float((d <= r3[:, None]).any(0).mean()),
        "recall": float((d <= f3[None]).any(1).mean()),
        "density": float((d <= r5[:, None]).sum(0).mean() / 5),
        "coverage": float((d <= r5[:, None]).any(1).mean()),
    }


@pytest.mark.parametrize("block", [500, 7])
def test_neighbourhoods_are_the_loops(block, monkeypatch):
    monkeypatch.setattr("pocketddpm.metrics.precision_recall.BLOCK", block)
    real, fake = normal(60, 3, 1, shift=100.0), normal(45, 3, 2, shift=100.4, scale=0.7)
    found = neighbourhoods(real, fake)
    truth = naive_neighbourhoods(real.double().numpy(), fake.double().numpy())
    for name, value in truth.items():
        assert getattr(found, name).double().mean().item() == pytest.approx(value), name
    assert (len(found.precision), len(found.recall)) == (45, 60)


def test_neighbourhoods_tell_fidelity_from_coverage():
    """Samples of half of the real distribution are precise; swapped, they have full recall."""
    g = torch.Generator().manual_seed(0)
    both = torch.cat([torch.randn(300, 2, generator=g), torch.randn(300, 2, generator=g) + 30])
    one = torch.randn(600, 2, generator=g)
    found, swapped = neighbourhoods(both, one), neighbourhoods(one, both)
    means = {k: getattr(found, k).double().mean().item() for k in vars(found)}
    assert means["precision"] > 0.9
    assert means["recall"] < 0.55
    assert means["coverage"] < 0.55
    assert swapped.precision.double().mean() < 0.55
    assert swapped.recall.double().mean() > 0.9


def test_a_row_is_not_its_own_neighbour_but_its_copy_is():
    x = torch.tensor([[0.0], [0.0], [3.0], [7.0]]).double()
    (first,) = ball_radii(x, 1)
    torch.testing.assert_close(first, torch.tensor([0.0, 0.0, 9.0, 16.0]).double())
    with pytest.raises(DataError, match=r"3 .* 3$"):
        ball_radii(x[:3], 3)


# Memorisation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1000, 3])
def test_nearest_is_the_loop_and_copies_are_at_zero(rows, monkeypatch):
    monkeypatch.setattr("pocketddpm.metrics.memorisation.ROWS", rows)
    monkeypatch.setattr("pocketddpm.metrics.memorisation.COLUMNS", 4)
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (11, 20), dtype=np.uint8)
    x = rng.integers(0, 256, (7, 20), dtype=np.uint8)
    x[2] = train[9]
    found = nearest(torch.from_numpy(x), torch.from_numpy(train))
    distance = np.linalg.norm(x[:, None].astype(float) - train[None], axis=2)
    np.testing.assert_array_equal(found.index, distance.argmin(1))
    np.testing.assert_allclose(found.distance, distance.min(1))
    assert found.distance[2] == 0


def test_suspects_are_one_percent_of_held_out_images():
    held_out = torch.arange(1000).double()
    assert suspects(held_out, held_out).double().mean() == 0.01
    assert suspects(torch.zeros(5), held_out).all()
    assert not suspects(torch.full((5,), 50.0), held_out).any()


def test_distinct_share():
    images = np.array([[1, 2], [1, 2], [2, 1], [3, 3]], np.uint8)
    assert distinct_share(images) == 0.75


# Verdicts ----------------------------------------------------------------------------------------


def test_class_score_is_torchmetrics_and_has_its_limits():
    from torchmetrics.image.inception import InceptionScore

    logits = 3 * normal(500, 10, 1)
    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1)
    theirs.update(logits)
    assert class_score(logits).value == pytest.approx(theirs.compute()[0].item(), rel=1e-4)
    assert class_score(torch.zeros(10, 10)).value == pytest.approx(1)
    assert class_score(100 * torch.eye(10)).value == pytest.approx(10)
    assert class_score(100 * torch.eye(10)[:4]).value == pytest.approx(4)


def test_agreement_is_accuracy():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [1.0, 0.0, 0.5]])
    labels, pixels = np.array([0, 2, 1, 2]), np.zeros((4, 1, 1, 1), np.uint8)
    images = ImageSet(pixels, labels, ("a", "b", "c"), "four")
    assert agreement(Features(logits, logits), images).value == 0.75


# Intervals ---------------------------------------------------------------------------------------


def test_bootstrap_agrees_with_the_normal_interval_for_a_mean():
    terms = normal(2000, 1, 3)[:, 0].double() + 10
    found = bootstrap(2000, terms.mean().item(), lambda c: float(c.double() @ terms / c.sum()))
    truth = mean_interval(terms)
    assert found.value == pytest.approx(truth.value)
    assert found.high - found.low == pytest.approx(truth.high - truth.low, rel=0.25)
    assert int(resample_counts(2000, 5).sum()) == 2000
    assert not torch.equal(resample_counts(2000, 5), resample_counts(2000, 6))


def test_ratio_and_difference():
    moved = torch.linspace(-1, 1, 101).double()
    a, b = Interval(10.0, 9.05, 10.95, 10 + moved), Interval(5.0, 4.05, 5.95, 5 + moved)
    r, d = ratio(a, b), difference(a, b)
    assert (r.value, d.value) == (2.0, 5.0)
    assert 9 / 6 < r.low < 2 < r.high < 11 / 4
    assert d.high - d.value == pytest.approx(d.value - d.low)
    assert 1 < d.high - d.value < 2
    ends = difference(replace(a, replicates=None), b)
    assert ends.high - ends.value == pytest.approx((0.95**2 * 2) ** 0.5)
    assert np.isnan(ratio(a, Interval(0.0, 0.0, 0.0)).value)


def test_shares_have_the_exact_interval():
    from scipy.stats import binomtest

    for hits, total in ((0, 20), (1, 20), (20, 20), (7, 50), (9960, 10_000)):
        found = share_interval(torch.arange(total) < hits)
        theirs = binomtest(hits, total).proportion_ci(0.95, "exact")
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize("total", [20, 100])
def test_intervals_of_shares_hold_the_truth_in_95_percent(total):
    """All counts, each with its probability: no draw."""
    shares = [share_interval(torch.arange(total) < hits) for hits in range(total + 1)]
    assert all(0 <= s.low <= s.value <= s.high <= 1 for s in shares)
    chances = {p: binomial(total, p) for p in (0.002, 0.01, 0.1, 0.5, 0.9, 0.996)}
    for p, chance in chances.items():
        holds = torch.tensor([s.low <= p <= s.high for s in shares])
        assert 0.95 <= (chance * holds).sum() <= 1 + 1e-9
    pairs = [[difference(a, b) for b in shares] for a in shares]
    assert all(-1 <= d.low <= d.value <= d.high <= 1 for line in pairs for d in line)
    for p, q in ((0.01, 0.01), (0.1, 0.01), (0.5, 0.9), (0.996, 0.996)):
        holds = torch.tensor([[d.low <= p - q <= d.high for d in line] for line in pairs])
        assert chances[p] @ holds.double() @ chances[q] >= 0.94


def binomial(total, p):
    seen = torch.arange(total + 1).double()
    ways = torch.tensor([float(comb(total, k)) for k in range(total + 1)]).double()
    return ways * p**seen * (1 - p) ** (total - seen)


@pytest.mark.parametrize("truth", [0.0, 0.3, 1.0, 1.9, 3.0])
def test_an_estimate_without_bias_has_an_interval_above_zero(truth):
    estimates = torch.linspace(truth - 5, truth + 5, 401)
    found = [never_negative(x, 1.0) for x in estimates.tolist()]
    assert all(0 <= f.low < f.high for f in found)
    holds = torch.tensor([f.low <= truth + 1e-6 and truth <= f.high for f in found])
    weights = torch.exp(-((estimates - truth) ** 2) / 2)
    assert (weights[holds].sum() / weights.sum()).item() == pytest.approx(0.95, abs=0.01)
    # Table X of the paper.
    for x, low, high in ((-3, 0, 0.42), (-1, 0, 1.10), (0, 0, 1.96), (2, 0.35, 3.96)):
        one = never_negative(3.0 * x, 3.0)
        assert (one.low / 3, one.high / 3) == pytest.approx((low, high), abs=0.006)


def test_intervals_of_distances_and_ratios_hold_the_truth():
    """Frechet distances of 40 images to a fixed reference: truth is their mean over many sets."""
    reference = Moments.of(normal(2000, 3, 0))

    def features(k, scale):
        return scale * normal(40, 3, 100 + k) + (scale - 1)

    def distance(k, scale):
        return frechet_distance(Moments.of(features(k, scale)), reference)

    scales = (1.0, 1.3)
    truths = [np.mean([distance(k, s) for k in range(200)]) for s in scales]
    held = np.zeros(3)
    for k in range(0, 60, 2):
        found = [frechet(Features(features(k + j, s)), reference) for j, s in enumerate(scales)]
        found.append(ratio(found[1], found[0]))
        for j, truth in enumerate((*truths, truths[1] / truths[0])):
            assert 0 < found[j].low < found[j].value < found[j].high
            held[j] += found[j].low <= truth <= found[j].high
    assert (held >= 26).all(), held  # of 30; 28.5 are expected


def test_intervals_of_means_of_positive_terms_hold_the_truth():
    held = 0
    for k in range(300):
        counts = torch.poisson(torch.full((100,), 1.0), torch.Generator().manual_seed(k)) / 5
        found = positive_interval(counts)
        assert 0 < found.low < found.value < found.high
        held += found.low <= 0.2 <= found.high
    assert 0.92 < held / 300 <= 1
    none = positive_interval(torch.zeros(20))
    assert (none.value, none.low) == (0, 0) and 0.1 < none.high < 0.2


@pytest.mark.parametrize("sharp", [0.0, 0.05, 3.0, 1000.0])
def test_intervals_of_class_scores_stay_within_the_classes(sharp):
    found = class_score(sharp * torch.eye(10)[torch.arange(40) % 10])
    assert 1 <= found.low <= found.value <= found.high <= 10


# Halves ------------------------------------------------------------------------------------------


def test_halves_are_fixed_and_share_nothing():
    a, b = split_halves(60_000)
    assert (len(a), len(b)) == (30_000, 30_000)
    assert sorted([*a, *b]) == list(range(60_000))
    # The shipped extractors were trained on these: other numbers here would be another protocol.
    assert (a[:4].tolist(), b[:4].tolist()) == (HALF_A, HALF_B)
    assert [len(h) for h in split_halves(7)] == [3, 4]
    assert len(set(random_indices(100, 40).tolist())) == 40


HALF_A, HALF_B = [0, 3, 4, 5], [1, 2, 7, 9]
