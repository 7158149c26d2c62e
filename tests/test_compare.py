"""Comparing models: the numbers are the models' own, and the page shows them."""

import json
from dataclasses import replace

import pytest
import torch

from models import Labelled, model_around
from pocketddpm.build import build_network
from pocketddpm.catalog import NETWORKS
from pocketddpm.commands.main import main
from pocketddpm.config import NetworkConfig, OptimiserConfig, TrainingConfig
from pocketddpm.presets import get_preset
from pocketddpm.runs import comparison
from pocketddpm.training import trainer
from pocketddpm.training.optimiser import build_optimisers
from test_cli import refused


@pytest.mark.slow
def test_compare_two_models(tmp_path, capsys):
    for name, widths in (("small", "8/16"), ("large", "16/32")):
        net = f"widths={widths},head_width=8,groups=4"
        main(["train", "digits", "--net", net, "--steps", "3", "--batch-size", "8", "--device",
              "cpu", "--sample-every", "0", "--out", str(tmp_path / name)])  # fmt: skip
    out = tmp_path / "compare"
    words = [
        "compare",
        str(tmp_path / "small"),
        str(tmp_path / "large"),
        "--n",
        "4",
        "--steps",
        "2",
    ]
    main([*words, "--out", str(out), "--device", "cpu", "--json"])
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads((out / "compare.json").read_text())
    small, large = json.loads((out / "compare.json").read_text())["models"]
    assert (small["name"], large["name"]) == ("small", "large")
    assert large["parameters"] > 3 * small["parameters"]
    assert large["gflop"] > 3 * small["gflop"]
    for row in (small, large):
        assert row["images_seen"] == 24
        assert min(row["train_rate"], row["sample_rate"], row["memory"], row["loss"]) > 0
    page = (out / "README.md").read_text()
    assert "![small](samples-0.png)" in page and "| small | unet |" in page
    assert (out / "samples-1.png").exists()
    with pytest.raises(SystemExit) as stop:
        main([*words, "--out", str(out)])
    assert stop.value.code == 2
    assert "--overwrite" in capsys.readouterr().err


def test_compare_takes_plugins(tmp_path, monkeypatch):
    """The network is a plug-in, which the measuring process has to load as well."""
    monkeypatch.chdir(tmp_path)
    source = (NETWORKS.files()["small-unet"]).read_text()
    (tmp_path / "my_net.py").write_text(source)
    plugin = ["--plugin", "my_net.py"]
    try:
        main(["train", "digits", "--network", "my-net", "--steps", "1", "--batch-size", "4",
              "--device", "cpu", "--sample-every", "0", "--out", "run", *plugin])  # fmt: skip
        main(["compare", "run", "--n", "1", "--steps", "1", "--device", "cpu", *plugin])
    finally:
        NETWORKS.plugins.pop("my-net", None)
    (row,) = json.loads((tmp_path / "compare" / "compare.json").read_text())["models"]
    assert (row["network"], row["images_seen"]) == ("my-net", 4)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_training_is_timed_with_the_runs_own_optimiser_and_precision(name, monkeypatch):
    built = []

    def build(config, network):
        built.append(config.name)
        return build_optimisers(config, network)

    monkeypatch.setattr(trainer, "build_optimisers", build)
    model = model_around(Labelled())
    experiment = replace(
        get_preset("digits"),
        network=NetworkConfig("small-unet", {"widths": (8, 8)}),
        optimiser=OptimiserConfig(name),
        training=TrainingConfig(steps=1000, precision="bf16"),
    )
    network = build_network(experiment, (1, 8, 8), 10)
    steps = []
    autocast = trainer.autocast
    monkeypatch.setattr(
        trainer, "autocast", lambda device, dtype: steps.append(dtype) or autocast(device, dtype)
    )
    rate = comparison._train_rate(
        replace(model, experiment=experiment, network=network, shape=(1, 8, 8))
    )
    assert rate > 0
    assert built == [name]
    assert steps == [torch.bfloat16] * (1 + comparison.ROUNDS)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ([], ["compare"]),
        (["absent"], ["absent"]),
        (["mnist", "--n", "0"], ["n ", ">= 1", "0"]),
        (["mnist", "--steps", "0"], ["steps", ">= 1", "0"]),
        (["mnist", "--device", "abacus"], ["--device", "abacus"]),
    ],
)
def test_bad_comparisons_are_one_line(words, values, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, "compare", *words)
    assert all(value in line for value in values), line
    assert not list(tmp_path.iterdir())
