"""Devices: what is asked for is used and recorded; no float64 there, and nothing waits for it.

Tensors of the meta device have a shape and no numbers, so that code which reads one fails. Training
steps and sampling loops run on them here, as they would on a GPU, under a mode that refuses float64
and transfers of more than a number for each image.
"""

import itertools
from dataclasses import fields, replace

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pocketddpm as pd
from conftest import with_training
from pocketddpm import build
from pocketddpm.build import pick_device
from pocketddpm.catalog import SAMPLERS
from pocketddpm.commands import main as entry
from pocketddpm.config import (
    DataConfig,
    EvaluationConfig,
    Experiment,
    NetworkConfig,
    ObjectiveConfig,
    OptimiserConfig,
    TrainingConfig,
)
from pocketddpm.data.augmentation import CONDITIONS
from pocketddpm.data.scaling import Scaling
from pocketddpm.diffusion.guidance import Guidance
from pocketddpm.distributed import agree_on_start
from pocketddpm.errors import ConfigError
from pocketddpm.models.model import load
from pocketddpm.models.provenance import machine
from pocketddpm.runs.data import load_run_data
from pocketddpm.runs.options import RunOptions
from pocketddpm.runs.run import Session, build_trainer
from pocketddpm.training import trainer as training
from pocketddpm.training.optimiser import (
    Muon,
    PlainAdamW,
    build_optimisers,
    load_optimisers,
    optimiser_tensors,
)
from test_cli import refused

META = torch.device("meta")
BATCH = 8
LEAN = NetworkConfig("lean", {"widths": (16, 32), "blocks": (1, 1), "head_width": 8})
UNET = NetworkConfig("unet", {"widths": (8, 16), "head_width": 8, "groups": 4})


class LikeAnotherDevice(TorchDispatchMode):
    """Refuses float64 on the meta device, and transfers to it of more than `most` numbers."""

    def __init__(self, most):
        super().__init__()
        self.most, self.transfers = most, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = function(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor) and x.device == META:
                assert x.dtype != torch.float64, f"{function} makes float64 on the device"
                copied = "copy" in str(function) and any(g.device != META for g in given)
                if copied and x.numel():
                    self.transfers += 1
                    assert x.numel() <= self.most, f"{function} moves {tuple(x.shape)}"
        return made


def test_the_mode_can_fail():
    with LikeAnotherDevice(4):
        torch.zeros(4).to(META)
        for wrong in (
            lambda: torch.zeros(4, device=META).double(),
            lambda: torch.zeros(5).to(META),
            lambda: torch.zeros(2, device=META, dtype=torch.float64),
        ):
            with pytest.raises(AssertionError):
                wrong()
        for read in (
            lambda: float(torch.zeros((), device=META)),
            lambda: torch.zeros(3, device=META).cpu(),
            lambda: bool(torch.zeros(3, device=META).all()),
        ):
            with pytest.raises((RuntimeError, NotImplementedError)):
                read()


# Training ----------------------------------------------------------------------------------------


def experiment(network=UNET, optimiser="adamw", data=None, **values):
    training = {"accumulate": values.pop("accumulate", 1)}
    return Experiment(
        preset="digits",
        data=data or DataConfig("digits"),
        network=network,
        optimiser=OptimiserConfig(optimiser, warmup=32, ema_half_life=64),
        objective=ObjectiveConfig(**values),
        training=TrainingConfig(batch_size=BATCH, steps=1000, precision="float32", **training),
    )


EDM = {"prediction": "edm", "weighting": "edm", "times": "log-normal"}
CASES = {
    "plain": experiment(),
    "adam, accumulated": experiment(optimiser="adam", accumulate=2),
    "the default recipe": experiment(
        LEAN, "muon", DataConfig("digits", flip=True, center=True), **EDM, guidance=1.5
    ),
    "v, soft-min-snr, huber": experiment(prediction="v", weighting="soft-min-snr", loss="huber"),
    "x0, l1, progressive": experiment(prediction="x0", loss="l1", progressive=True),
    "the bound": experiment(loss="vlb"),
    "learned variance": experiment(loss="hybrid", variance="learned"),
    "augmentation": experiment(LEAN, data=DataConfig("digits", augment=0.5), **EDM),
    "consistency": experiment(LEAN, **EDM | {"weighting": "simple"}, loss="consistency"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_training_step_neither_reads_the_device_nor_needs_float64(case, monkeypatch):
    """Loader, objective, gradient, health, optimiser and average; two steps, the second with
    moments, and the teacher of a tuning.
    """
    data = load_run_data(CASES[case], META)
    trainer = build_trainer(CASES[case], data, META)
    trainer.init_from(trainer.network.state_dict())
    read = []
    monkeypatch.setattr(training.Trainer, "_read", lambda self: read.append(self.step))
    trainer.loader.batch(0)  # the epoch's order travels at its start
    numbers = CONDITIONS if CASES[case].data.augment else 1  # of an image, that travel
    with LikeAnotherDevice(BATCH * numbers) as mode:
        results = list(itertools.islice(trainer.steps(), 2))
    assert mode.transfers > 0
    assert not read
    assert [r.loss.device for r in results] == [META] * 2
    tensors = trainer.network.state_dict() | trainer.averages.get("ema", {})
    assert {v.device for v in tensors.values()} == {META}
    kinds = {type(each) for each in trainer.optimisers}
    assert kinds == ({Muon, PlainAdamW} if "recipe" in case else {PlainAdamW})


def test_losses_are_read_at_times_and_at_the_end_of_an_epoch(monkeypatch):
    few = with_training(CASES["plain"], batches_per_epoch=70, steps=140)
    trainer = build_trainer(few, load_run_data(few, META), META)
    read = []
    monkeypatch.setattr(training.Trainer, "_step", lambda self, *_: self.forward())
    monkeypatch.setattr(training.Trainer, "forward", forward, raising=False)
    monkeypatch.setattr(
        training.Trainer, "_read", lambda self: (read.append(self.step), self._unread.clear())
    )
    assert len(list(trainer.steps())) == 140
    assert read == [50, 70, 120, 140]


def forward(trainer):
    trainer.images_seen += BATCH
    return torch.zeros((), device=META), torch.zeros((), device=META)


def test_times_that_learn_read_their_losses(tiny):
    """Importance sampling keeps its history on the CPU: it waits at every step, and says so."""
    learns = experiment(times="importance")
    trainer = build_trainer(learns, load_run_data(learns, META), META)
    with pytest.raises((RuntimeError, NotImplementedError)):
        next(trainer.steps())


@pytest.mark.parametrize("optimiser", ["adam", "adamw", "muon"])
@pytest.mark.parametrize("fused", [True, False])
def test_a_step_that_is_skipped_changes_nothing(optimiser, fused, monkeypatch):
    """By every optimiser on the device itself; the steps after it are those of a run without it."""
    if not fused:
        monkeypatch.setattr("pocketddpm.training.optimiser.FUSED", ())
    config = OptimiserConfig(optimiser, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    plan = [(torch.randn(20, 24, generator=generator), 0.0) for _ in range(5)]
    broken = [*plan[:2], (torch.full((20, 24), torch.nan), 1.0), *plan[2:]]
    ends = []
    for steps in (plan, broken, [broken[2], *plan]):
        network = torch.nn.Linear(24, 20)
        torch.nn.init.ones_(network.weight)
        torch.nn.init.ones_(network.bias)
        optimisers = build_optimisers(config, network)
        for gradient, found_inf in steps:
            network.weight.grad, network.bias.grad = gradient.clone(), gradient[:, 0].clone()
            for each in optimisers:
                each.found_inf = torch.tensor(found_inf)
                each.step()
        ends.append([p.detach().clone() for p in network.parameters()])
    for end in ends[1:]:
        assert_close(end, ends[0], rtol=0, atol=0)


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_plain_adam_is_the_fused_one_but_for_rounding(tiny, tmp_path, monkeypatch, optimiser):
    """Fused kernels are asked for where they can skip a step, on the CPU and CUDA."""
    tiny = replace(tiny, optimiser=replace(tiny.optimiser, name=optimiser))
    runs = []
    for fused in (("cpu", "cuda"), ()):
        monkeypatch.setattr("pocketddpm.training.optimiser.FUSED", fused)
        run = Session(tiny, tmp_path / str(bool(fused)), RunOptions(device="cpu", sample_every=0))
        run.run()
        runs.append(run)
    kinds = [type(run.trainer.optimisers[0]).__name__ for run in runs]
    assert kinds == [{"adam": "Adam", "adamw": "AdamW"}[optimiser], "PlainAdamW"]
    assert_close(runs[1].log.loss, runs[0].log.loss, rtol=1e-5, atol=1e-6)
    one, other = (run.trainer.state().tensors for run in runs)
    assert one["optimizer"].keys() == other["optimizer"].keys()
    for name, tensor in one["ema"].items():
        assert_close(other["ema"][name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_what_an_optimiser_remembers_is_resumed_on_the_device(name):
    """Its counter of steps too: fused kernels need it there."""
    networks = [torch.nn.Linear(20, 20), torch.nn.Linear(20, 20, device=META)]
    ours, theirs = (build_optimisers(OptimiserConfig(name), network) for network in networks)
    networks[0](torch.ones(1, 20)).sum().backward()
    for each in ours:
        each.step()
    tensors = optimiser_tensors(ours)
    load_optimisers(theirs, tensors)
    assert {k: v.device for k, v in optimiser_tensors(theirs).items()} == dict.fromkeys(
        tensors, META
    )


# Sampling ----------------------------------------------------------------------------------------


@pytest.fixture
def on_meta(monkeypatch):
    """Shipped models on the meta device; their finished images, which are read, are zeros."""
    monkeypatch.setattr(Scaling, "to_uint8", lambda self, x: torch.zeros(x.shape).byte())
    return {name: load(name, META) for name in ("mnist", "mnist-fast", "fashion-mnist")}


@pytest.mark.parametrize("name", [n for n in SAMPLERS.names() if n != "ddim-inversion"])
def test_a_sampling_loop_neither_reads_the_device_nor_needs_float64(name, on_meta):
    model = on_meta["mnist-fast" if name == "consistency" else "mnist"]
    with LikeAnotherDevice(2) as mode:
        samples = model.sample(labels=[3, 7], sampler=name, steps=3, seed=1, precision="float32")
    assert samples.images.shape == (2, 1, 28, 28)
    assert mode.transfers == 1  # the labels


@pytest.mark.parametrize(
    "guidance",
    [
        Guidance(2.0, interval=(100, 800)),
        Guidance(2.0, rescale=0.7, negative_label=4),
        Guidance(0.6, cfg_plus_plus=True),
        Guidance(3.0, threshold=0.99),
        Guidance(0.0),
    ],
)
def test_guidance_neither_reads_the_device_nor_needs_float64(guidance, on_meta):
    with LikeAnotherDevice(2):
        on_meta["mnist"].sample(labels=[3, 7], sampler="ddim", steps=3, guidance=guidance)


def test_a_guide_is_on_the_device_too(on_meta):
    with LikeAnotherDevice(2):
        model = replace(on_meta["mnist"], scaling=Scaling())  # a mean image is compared, and read
        model.sample(labels=[1], steps=2, guidance=2.0, guide=model)


# Which device ------------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch):
    """A machine with eight GPUs, which are only talked of."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(build, "check_computes", lambda device: None)


@pytest.mark.parametrize("rank", [None, "0", "5"])
@pytest.mark.parametrize("asked", ["auto", "cuda", "cuda:1", "cpu"])
def test_the_device_asked_for_is_the_device(gpus, monkeypatch, rank, asked):
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    own = f"cuda:{rank or 0}"
    expected = {"auto": own, "cuda": own}.get(asked, asked)
    assert str(pick_device(asked)) == expected


@pytest.mark.parametrize("name", ["meta", "cuda:63", "banana", "", "cpu:x"])
def test_what_cannot_compute_is_refused_by_name(name):
    with pytest.raises(ConfigError) as refused:
        pick_device(name)
    assert f"--device {name}" in str(refused.value)
    assert len(str(refused.value)) < 400


VERBS = entry.VERBS
WORDS = {
    "quickstart": "--out OUT",
    "train": "digits --steps 1 --out OUT",
    "distill": "mnist --steps 1 --out OUT",
    "neon": "mnist --out OUT",
    "sample": "mnist --out OUT/x.png",
    "evaluate": "mnist --n 20",
    "likelihood": "mnist --n 2",
    "extractor": "digits --out OUT/x.safetensors",
    "edit": "interpolate mnist --images digits --index 0,1 --out OUT/x.png",
    "compare": "mnist --out OUT",
    "reproduce": "RUN",
    "demo": "mnist",
}


def test_every_verb_with_a_device_is_tried():
    assert set(WORDS) == {
        verb for verb, c in VERBS.items() if "device" in {f.name for f in fields(c)}
    }


@pytest.mark.parametrize("verb", WORDS)
def test_every_verb_uses_the_device_that_it_is_given(verb, tiny, tmp_path, capsys):
    """One that ignored it would not notice that nothing can be computed there."""
    words = WORDS[verb].replace("OUT", str(tmp_path / "out")).split()
    if "RUN" in words:
        Session(with_training(tiny, steps=1), tmp_path / "run", RunOptions(device="cpu")).run()
        words = [str(tmp_path / "run")]
    assert "--device meta" in refused(capsys, verb, *words, "--device", "meta")
    assert not (tmp_path / "out").exists()


def test_a_run_is_on_its_device_and_records_it(tiny, tmp_path, monkeypatch):
    """Also the second one in a process: nothing that is shared decides."""
    found = []

    class Enough(Exception):
        pass

    def built(experiment, data, device):
        found.append((device, data.scaling.mean.device))
        raise Enough

    monkeypatch.setattr("pocketddpm.runs.run.build_trainer", built)
    monkeypatch.setattr("pocketddpm.runs.run.pick_device", torch.device)
    tiny = replace(tiny, data=replace(tiny.data, center=True))
    for name in ("cpu", "meta", "cpu"):
        with pytest.raises(Enough):
            Session(tiny, tmp_path / "run", RunOptions(device=name))
    assert found == [(torch.device(n), torch.device(n)) for n in ("cpu", "meta", "cpu")]


def test_two_runs_of_one_process_use_two_devices(tiny):
    trainers = [build_trainer(tiny, load_run_data(tiny, d), d) for d in (torch.device("cpu"), META)]
    for trainer in (*trainers, *trainers):
        loss, _ = trainer._step(1e-3, 0.0)
        assert loss.device == trainer.device == next(trainer.network.parameters()).device


def test_the_device_is_recorded_and_printed(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    record = machine(torch.device("cuda:3"))
    assert (record["device"], record["gpu"]) == ("cuda:3", "GPU 3")
    run = Session(with_training(tiny, steps=1), tmp_path, RunOptions(device="cpu", sample_every=0))
    run.run()
    assert run.meta["machine"]["device"] == "cpu"
    assert "cpu x 1" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["auto", "cpu", torch.device("cpu")])
def test_models_take_the_names_of_devices(device):
    assert pd.load("mnist", device=device).device.type in ("cpu", "cuda", "mps")


def test_processes_on_one_gpu_are_refused(monkeypatch, tmp_path):
    def everyone(mine):
        return [mine, mine]

    monkeypatch.setattr("pocketddpm.distributed.gathered", everyone)
    monkeypatch.setattr("pocketddpm.distributed.count", lambda: 2)
    agree_on_start(3, torch.device("cpu"), tmp_path)
    for name in ("cuda:1", "mps"):
        with pytest.raises(ConfigError, match=name):
            agree_on_start(3, torch.device(name), tmp_path)


def test_evaluation_is_not_the_devices_business(tiny):
    """What is held out stays in memory."""
    tiny = replace(tiny, evaluation=EvaluationConfig(every=5))
    data = load_run_data(tiny, META)
    assert isinstance(data.parts.choosing.images, type(data.images.images))
