"""What all tests share: no network, a private cache, few threads, tiny experiments."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pocketddpm.config import DataConfig, Experiment, NetworkConfig, OptimiserConfig, TrainingConfig

TINY = NetworkConfig("unet", {"widths": (8, 16), "head_width": 8, "groups": 4})


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    """Tests neither download nor read or write the user's cache."""
    monkeypatch.setenv("POCKETDDPM_OFFLINE", "1")
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """As OMP_NUM_THREADS says; another library may have been before it."""
    import torch

    torch.set_num_threads(1)


def score_quickly(patch: pytest.MonkeyPatch) -> None:
    """Make small what takes seconds of each `evaluate`: a bootstrap, training a classifier."""
    from pocketddpm.metrics import intervals, train_extractor

    patch.setattr(intervals, "REPLICATES", 10)
    patch.setattr(train_extractor, "PASSES", 100)


@pytest.fixture
def quick_scores(monkeypatch):
    """For tests that read no interval, and ask no classifier to be right."""
    score_quickly(monkeypatch)


def find_real_data() -> Path:
    """Return the folder with the real MNIST and Fashion-MNIST files; skip the test without it."""
    root = os.environ.get("POCKETDDPM_DATA")
    if not root or not (Path(root) / "MNIST" / "raw").is_dir():
        pytest.skip("needs real MNIST: set POCKETDDPM_DATA to a folder that holds MNIST/raw")
    return Path(root)


@pytest.fixture
def real_data() -> Path:
    """The folder with the real MNIST and Fashion-MNIST files."""
    return find_real_data()


@pytest.fixture
def tiny() -> Experiment:
    """Ten steps on the built-in digits, in float32: less than a second."""
    return Experiment(
        preset="digits",
        data=DataConfig("digits"),
        network=TINY,
        optimiser=OptimiserConfig(warmup=32, ema_half_life=64),
        training=TrainingConfig(batch_size=16, steps=10, precision="float32"),
    )


def with_training(experiment: Experiment, **values) -> Experiment:
    """Return the experiment with other training values."""
    return replace(experiment, training=replace(experiment.training, **values))


def pytest_configure(config):
    # The suite runs in two processes: one thread each, for what they start as well. torch reads
    # it when it is imported, which the process that only starts the others need not do.
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_itemcollected(item):
    """Tests with a fixture of their module stay in one process, where it is made once."""
    fixtures = item._fixtureinfo.name2fixturedefs.values()
    if any(each[-1].scope == "module" for each in fixtures):
        item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_modifyitems(config, items):
    """Of tests that go to any process, the slow ones go first: two processes end together.

    A test's name may hold no address: processes would have different tests, and none would run.
    """
    if unnamed := [item.nodeid for item in items if " object at 0x" in item.nodeid]:
        raise pytest.UsageError(f"names that differ between processes: {unnamed[:3]}")
    if hasattr(config, "workerinput"):  # a process of pytest-xdist
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_terminal_summary(terminalreporter):
    """Say how many faults the campaign injected, for docs/reliability.md."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid.split('::')[-1]}: {name}: {value}")
