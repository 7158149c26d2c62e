"""Every option of training, through every door: Python, the command line, a checkpoint.

The walk is over the fields of config.py, so that an option that is added is walked too. A run that
starts can be loaded; one that cannot start leaves nothing behind.
"""

import copy
import json
import math
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch

import pocketddpm as pd
from pocketddpm.build import build_network, build_schedule, typed
from pocketddpm.catalog import NETWORKS, SAMPLERS, SCHEDULES, TABLES
from pocketddpm.commands.distill import Distill
from pocketddpm.commands.main import VERBS, main
from pocketddpm.commands.parser import parse
from pocketddpm.commands.train import Train
from pocketddpm.config import (
    BUDGETS,
    Experiment,
    NetworkConfig,
    SamplingConfig,
    ScheduleConfig,
    experiment_options,
    with_options,
)
from pocketddpm.diffusion.build import build_sampler
from pocketddpm.diffusion.losses import LOSSES
from pocketddpm.diffusion.prediction import PREDICTIONS
from pocketddpm.diffusion.times import TIMES
from pocketddpm.diffusion.weighting import WEIGHTINGS
from pocketddpm.errors import ConfigError, DDPMError
from pocketddpm.models.checkpoint import load_checkpoint, save_checkpoint
from pocketddpm.models.model import model_from
from pocketddpm.presets import PRESETS, get_preset
from pocketddpm.runs.options import RunOptions
from pocketddpm.runs.start import start
from pocketddpm.values import from_dict, option_of, sentence

PACKAGE = Path(pd.__file__).parent
NET = "widths=8/16,head_width=8,groups=4"
SIZES = {"widths": (8, 16), "head_width": 8, "groups": 4}
OPTIONS = experiment_options()

# What text, tuples and objects there may be; all else follows from the types and bounds.
ALLOWED: dict[str, list[tuple[Any, str, Any]]] = {  # in Python, as text, in the experiment
    "data": [("mnist", "mnist", "mnist"), (Path("a/b"), "a/b", "a/b")],
    "image_size": [((28, 36), "28x36", (28, 36)), (32, "32", (32, 32)), ([8, 12], "8x12", (8, 12))],
    "background": [("white", "white", "white"), ("#102030", "#102030", "#102030")],
    "classes": [(["1", "7"], "1,7", ("1", "7")), (("cat",), "cat", ("cat",))],
    "network": [("lean", "lean", "lean"), ("unet", "unet", "unet")],
    "net": [
        ({"blocks": 2}, "blocks=2", {"blocks": 2}),
        ({"widths": [8, 16]}, "widths=8/16", {"widths": (8, 16)}),
    ],
    "schedule": [("linear", "linear", "linear"), ("cosine", "cosine", "cosine")],
    "schedule_options": [({"s": 0.01}, "s=0.01", {"s": 0.01})],
    "betas": [((0.5, 0.75), "0.5/0.75", (0.5, 0.75)), ([0, 0.9], "0/0.9", (0.0, 0.9))],
    "ema_also": [((3000, 9000), "3000/9000", (3000, 9000)), ([1], "1", (1,))],
}
WRONG: dict[str, list[Any]] = {
    "data": [3, True, ["mnist"]],
    "image_size": [0, (28,), (28, 0), (28, -1), (28.5, 28), "big", "28x", 28.5, True, {"h": 28}],
    "background": [3, True, (255, 255, 255)],
    "classes": [3, [3], "", ",", {"a": 1}, True],
    "network": [3, True],
    "net": [3, "widths", "=3", ["widths"], {"widths": object()}, {3: 4}, {"widths": {"a": 1}}],
    "schedule": [3, True],
    "schedule_options": [3, "beta_end", [1], {"beta_end": object()}],
    "ema_also": [{"a": 1}, (0,), (-1,), (1.5,), (math.nan,), "0", "x", "", True, [True]],
    "betas": [0.9, (0.9,), (0.9, 1.0), (-0.1, 0.9), (math.nan, 0.9), "0.9", "0.9/x/1", True],
}


def plain(name: str) -> Any:
    """Return an option's type, without None."""
    hint = OPTIONS[name].hint
    kinds = [a for a in get_args(hint) if a is not type(None)]
    return kinds[0] if type(None) in get_args(hint) else hint


def choices(name: str) -> list[str]:
    about = option_of(OPTIONS[name].field)
    if about.choices is not None:
        return about.choices.names()
    return list(get_args(plain(name))) if get_origin(plain(name)) is Literal else []


def bounds(about) -> list[tuple[str, int]]:
    return [(p.split()[0], int(p.split()[1])) for p in about.bound.split(", ") if p]


def beyond(about) -> list[int]:
    """Return the whole numbers that a bound excludes by the least."""
    return [n + {">": 0, "<": 0, ">=": -1, "<=": 1}[sign] for sign, n in bounds(about)]


def within(about, kind: type) -> list[Any]:
    """Return numbers that a bound allows, its own ends among them."""
    step = 1 if kind is int else 0.25
    ends = [n + {">": step, "<": -step}.get(sign, 0) for sign, n in bounds(about)] or [-3, 3]
    return [kind(v) for v in [*ends, *[ends[0] + step] * (len(ends) == 1)]]


def allowed(name: str) -> list[tuple[Any, str, Any]]:
    """Return values that an option takes: in Python, as text, and in the experiment."""
    if name in ALLOWED:
        return ALLOWED[name]
    if choices(name):
        return [(value, value, value) for value in choices(name)]
    if plain(name) is bool:
        return [(True, "yes", True), (False, "no", False)]
    values = within(option_of(OPTIONS[name].field), plain(name))
    return [(v, repr(v), v) for v in values]


def wrong(name: str) -> list[Any]:
    """Return values that no door may let in."""
    if name in WRONG:
        return WRONG[name]
    if choices(name):
        return ["banana", choices(name)[0].upper(), 3, True, ["mse"]]
    if plain(name) is bool:
        return ["maybe", 1, 0, 1.0, ["yes"]]
    never = ["many", "", True, [1], math.nan, math.inf, -math.inf, "nan", "inf", {"a": 1}]
    return [*never, *beyond(option_of(OPTIONS[name].field)), *[1.5] * (plain(name) is int)]


def value_of(experiment: Experiment, name: str) -> Any:
    place = OPTIONS[name]
    return getattr(getattr(experiment, place.part), place.field.name)


PARTS = [f.name for f in fields(Experiment) if f.name != "preset"]


class Recorded(Exception):
    """Raised in place of a session, with what it was asked for."""


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Return a function that runs a door and returns the experiment and options of its session."""

    def stop(experiment, out, options, **_):
        raise Recorded(experiment, vars(options) | {"out": out})

    monkeypatch.setattr("pocketddpm.runs.start.Session", stop)
    monkeypatch.chdir(tmp_path)

    def through(door, *args, **options):
        with pytest.raises(Recorded) as recorded:
            door(*args, **options)
        return recorded.value.args

    return through


# Names -------------------------------------------------------------------------------------------

# Options that people have in their scripts: one may be added, none may go.
NAMES = (
    "data image_size fit subset classes flip center network net schedule schedule_options "
    "timesteps zero_terminal shift prediction sigma_data loss weighting times p_mean p_std "
    "progressive variance label_dropout guidance steps epochs images minutes batch_size accumulate "
    "batches_per_epoch optimiser lr decay grad_clip ema_half_life seed precision device out resume "
    "begin_with checkpoint_every sample_every sample_at_start sample_each_epoch evaluate_every "
    "evaluate_n best_by tensorboard trackio json overwrite plugin"
)
DISTILL = "steps epochs images minutes lr seed device out checkpoint_every sample_every overwrite"


@pytest.mark.parametrize(("command", "names"), [(Train, NAMES), (Distill, DISTILL)])
def test_no_option_of_the_command_line_goes(command, names):
    assert set(names.split()) <= {f.name for f in fields(command)}


def test_every_field_has_its_sentence():
    for kind in (RunOptions, *(type(getattr(get_preset("digits"), part)) for part in PARTS)):
        for f in fields(kind):
            assert sentence(kind, f.name).endswith("."), f"{kind.__name__}.{f.name}"


def test_every_field_but_those_of_sampling_is_an_option():
    places = {(place.part, place.field.name) for place in OPTIONS.values()}
    assert places == {
        (part, f.name)
        for part in PARTS
        if part != "sampling"
        for f in fields(getattr(get_preset("digits"), part))
    }


def test_tables_are_read_as_they_are():
    for kind, table in (
        ("losses", LOSSES),
        ("weightings", WEIGHTINGS),
        ("times", TIMES),
        ("predictions", PREDICTIONS),
    ):
        assert TABLES[kind].names() == list(table)


def test_zero_and_negative_numbers_are_allowed_where_they_mean_something():
    """What the walk takes from the bounds themselves, written once more."""
    zero = (
        "low high hold_out p_mean label_dropout weight_decay warmup grad_clip ema_half_life "
        "ema_ramp batches_per_epoch seed evaluate_every augment patience"
    )
    numbers = {name for name in OPTIONS if plain(name) in (int, float)}
    for value, may in ((0, zero.split()), (-1, ["low", "high", "p_mean", "seed"])):
        allowed = set()
        for name in numbers:
            with suppress(ConfigError):
                with_options(get_preset("digits"), {name: value})
                allowed.add(name)
        assert allowed == set(may)


def test_what_no_type_foresees_is_refused_in_one_line():
    for name, value in (
        ("loss", np.array(["mse", "l1"])),
        ("loss", "a\nb"),
        ("seed", 10**400),
        ("lr", 10**400),
        ("batch_size", np.array([1, 2])),
        ("classes", {"a"}),
        ("net", {"widths": np.array([8, 16])}),
        ("fit", ["pad"]),
    ):
        with pytest.raises(ConfigError, match=name) as error:
            with_options(get_preset("digits"), {name: value})
        assert "\n" not in str(error.value)


def test_flips_are_the_data_sets_habit_unless_chosen():
    assert all(make().data.flip is None for make in PRESETS.values())


# What is allowed ---------------------------------------------------------------------------------


def command_line(*words: str) -> None:
    """Run `pocketddpm train`; its errors are raised."""
    parse("train", VERBS, words).run()


@pytest.mark.parametrize("name", OPTIONS)
def test_an_allowed_value_changes_the_experiment(name, asked):
    base = get_preset("unet-mnist")
    # What hangs together: a network and its sizes, a schedule and its options, the budgets.
    together = {"network": {"net"}, "schedule": {"schedule_options"}}.get(name, set())
    together |= set(BUDGETS) if name in BUDGETS else set()
    for value, text, stored in allowed(name):
        python, _ = asked(pd.train, "unet-mnist", **{name: value})
        assert value_of(python, name) == stored
        assert type(value_of(python, name)) is type(stored)
        for other in OPTIONS.keys() - {name, *together}:
            assert value_of(python, other) == value_of(base, other), other
        for budget in BUDGETS if name in BUDGETS else ():
            assert (value_of(python, budget) is None) == (budget != name)
        command, _ = asked(command_line, "unet-mnist", f"--{name.replace('_', '-')}={text}")
        assert command == python
        assert from_dict(Experiment, json.loads(json.dumps(python.to_dict()))) == python


def test_none_keeps_what_the_preset_says(asked):
    for name in PRESETS:
        if get_preset(name).data.name:
            experiment, _ = asked(pd.train, name, **dict.fromkeys(OPTIONS))
            assert experiment == get_preset(name)


def test_numbers_of_other_kinds_are_what_they_say(asked):
    for name, value, stored in (
        ("batch_size", 4.0, 4),
        ("batch_size", np.int64(4), 4),
        ("lr", np.float32(0.5), 0.5),
        ("lr", "0.5", 0.5),
        ("seed", "3", 3),
        ("net", {"blocks": np.int64(2)}, {"blocks": 2}),
        ("classes", "a, b", ("a", "b")),
        ("net", NET, SIZES),
        ("flip", "yes", True),
        ("flip", "True", True),
        ("flip", "No", False),
        ("center", "true", True),
    ):
        experiment, _ = asked(pd.train, "unet-mnist", **{name: value})
        assert value_of(experiment, name) == stored
        json.dumps(experiment.to_dict())


def test_sizes_are_added_and_go_with_their_network():
    base = get_preset("unet-cifar10")
    wider = with_options(base, {"net": {"widths": (8, 16)}})
    assert wider.network.sizes == {**base.network.sizes, "widths": (8, 16)}
    assert with_options(base, {"network": "lean"}).network.sizes == {}
    other = with_options(base, {"network": "lean", "net": {"widths": (8, 16)}})
    assert other.network.sizes == {"widths": (8, 16)}
    assert with_options(base, {"network": "unet"}) == base


def test_options_of_the_run_reach_it(asked):
    _, options = asked(pd.train, "digits")
    assert options["out"] == Path("runs/digits")
    defaults = {f.name: f.default for f in fields(RunOptions)}
    for name in options.keys() & defaults.keys() - {"out", "begin_with", "resume"}:
        assert options[name] == defaults[name]
        value = not defaults[name] if isinstance(defaults[name], bool) else 7
        value = "cpu" if name == "device" else value
        _, given = asked(pd.train, "digits", **{name: value})
        assert given == {**options, name: value}
        text = [] if value is True else [str(value)]
        _, command = asked(main, ["train", "digits", f"--{name.replace('_', '-')}", *text])
        assert command == given
    _, options = asked(pd.train, "digits", out="~/mine")
    assert options["out"] == Path.home() / "mine"


# What is refused ---------------------------------------------------------------------------------


def says(error: DDPMError, name: str, value: Any) -> None:
    """Check that a message names the option and what was given, in one line."""
    text = str(error)
    assert name in text or OPTIONS[name].field.name in text or "reads" in text, text
    assert "\n" not in text


@pytest.mark.parametrize("name", OPTIONS)
def test_a_wrong_value_is_refused_in_python(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pocketddpm.runs.start.Session", None)  # it is refused before
    for value in wrong(name):
        with pytest.raises(ConfigError) as error:
            pd.train("digits", **{name: value})
        text = str(error.value)
        assert name in text and "\n" not in text
        assert str(value) in text or repr(value) in text or type(value) in (dict, list, tuple)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", OPTIONS)
def test_a_wrong_value_is_refused_on_the_command_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pocketddpm.runs.start.Session", None)
    texts = [v for v in wrong(name) if isinstance(v, str | int | float) and not isinstance(v, bool)]
    for value in texts if plain(name) is not str or choices(name) else ():
        if (name, value) == ("classes", 3):
            continue  # a class may be called 3
        with pytest.raises((ConfigError, SystemExit)) as stop:
            command_line("digits", f"--{name.replace('_', '-')}={value}")
        assert stop.type is ConfigError or stop.value.code == 2  # type: ignore[union-attr]
    assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("options") / "run"
    pd.train("digits", net=NET, steps=1, batch_size=8, sample_every=0, device="cpu", out=out)
    return out


WRONG_SAMPLING = {
    "sampler": [3, None], "steps": [0, -1, 1.5, math.nan, True], "spacing": [3],
    "options": [[1], "eta", 3], "guidance": [math.nan, math.inf, "much", True],
    "clip": [1, "maybe"],
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_a_wrong_value_is_refused_in_a_checkpoint(part, trained):
    checkpoint = load_checkpoint(trained / "last.safetensors")
    options = {place.field.name: name for name, place in OPTIONS.items() if place.part == part}
    values = {f: wrong(name) for f, name in options.items()} or WRONG_SAMPLING
    for name, wrongs in values.items():
        for value in wrongs:
            meta = copy.deepcopy(checkpoint.meta)
            meta["experiment"][part][name] = value
            with pytest.raises(ConfigError) as error:
                model_from(replace(checkpoint, meta=meta), torch.device("cpu"))
            assert f"{part}.{name}" in str(error.value)
        meta = copy.deepcopy(checkpoint.meta)
        meta["experiment"][part][f"{name}s"] = 1
        with pytest.raises(ConfigError, match=f"{name}s"):
            model_from(replace(checkpoint, meta=meta), torch.device("cpu"))


def test_what_a_file_states_passes_the_same_guard(trained, tmp_path):
    checkpoint = load_checkpoint(trained / "last.safetensors")
    checkpoint.meta["experiment"]["optimiser"]["name"] = "sgd"
    save_checkpoint(tmp_path / "x.safetensors", checkpoint)
    with pytest.raises(ConfigError, match="sgd"):
        pd.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "options",
    [{"checkpoint_every": -1}, {"sample_every": 1.5}, {"checkpoint_every": math.nan},
     {"sample_at_start": "maybe"}, {"overwrite": 1}, {"out": 3}, {"device": 3}, {"resume": 3},
     {"begin_with": True}, {"tensorboard": "often"}, {"trackio": 2}, {"minuts": 3}],
    ids=str,
)  # fmt: skip
def test_wrong_options_of_the_run_are_refused(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (name,) = options
    for door in (pd.train, pd.distill):
        with pytest.raises(ConfigError) as error:
            door("digits", **options)
        assert name in str(error.value)
    assert not list(tmp_path.iterdir())


def test_distillation_takes_its_own_options_only(asked):
    with pytest.raises(ConfigError, match="loss"):
        pd.distill("mnist", loss="l1")
    _, options = asked(pd.distill, "mnist")
    assert (options["out"], options["sample_every"]) == (Path("runs/mnist-distilled"), 0)
    experiment, _ = asked(pd.distill, "mnist")
    assert (experiment.training.minutes, experiment.optimiser.lr) == (5.0, 2e-3)
    experiment, _ = asked(pd.distill, "mnist", steps=3, lr=1e-3, seed=7)
    assert experiment.training.minutes is None
    assert (experiment.training.steps, experiment.training.seed) == (3, 7)
    again, _ = asked(main, ["distill", "mnist", "--steps", "3", "--lr", "1e-3", "--seed", "7"])
    assert again == experiment


def test_an_experiment_of_ones_own_passes_the_guard_too(tmp_path):
    experiment = get_preset("digits")
    bad = replace(experiment, optimiser=replace(experiment.optimiser, name="sgd"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="sgd"):
        pd.train(bad, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


# Sizes of networks, options of schedules and samplers --------------------------------------------

SMALL: dict[str, dict[str, Any]] = {
    "unet": SIZES,
    "lean": {"widths": (16, 32), "blocks": (1, 1), "head_width": 8},
    "small-unet": {"widths": (4, 8, 8)},
    "conditional": {"widths": (8, 16), "attention": (0,), "heads": 1, "head_width": 8},
    "ddpm-unet": {"widths": (8, 16), "groups": 4, "attention": (1,), "head_width": 8},
}
ODD = [0, -1, 1, 7, 1.5, math.nan, math.inf, -math.inf, "x", True, None, (), (0,), (8, 0), (-8, 8)]


@pytest.mark.parametrize("name", SMALL)
def test_sizes_of_a_network_make_one_or_are_refused(name):
    """Whatever a size is: the network is built and runs, or ConfigError names the network."""
    base, x, t = get_preset("digits"), torch.zeros(2, 1, 16, 16), torch.tensor([1.0, 2.0])
    built = set()
    for f in fields(NETWORKS.load(name).Config):
        for value in ODD:
            sizes = {**SMALL[name], f.name: value}
            try:
                network = build_network(
                    replace(base, network=NetworkConfig(name, sizes)), x.shape[1:], 0
                )
            except ConfigError as error:
                assert name in str(error), (f.name, value)
                continue
            assert network(x, t, None).shape == x.shape
            built.add(f.name)
    assert len(built) >= len(fields(NETWORKS.load(name).Config)) - 2


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_options_of_a_schedule_make_one_or_are_refused(name):
    for f in fields(SCHEDULES.load(name).Config):
        for value in ODD:
            try:
                schedule = build_schedule(ScheduleConfig(name, 50, {f.name: value}))
            except ConfigError:
                continue
            falls = schedule.alpha_bar.diff()
            assert bool(schedule.alpha_bar.isfinite().all() & (falls <= 0).all()), (f.name, value)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_options_of_a_sampler_are_taken_or_refused(name):
    for f in fields(SAMPLERS.load(name).Config):
        assert getattr(build_sampler(name, {}).config, f.name) == f.default
        for value in (math.nan, -1, "x", (8, 0), None):
            with pytest.raises(ConfigError):
                build_sampler(name, {f.name: value})


@pytest.mark.parametrize(
    ("table", "part", "make", "key"),
    [
        (NETWORKS, "network", NetworkConfig, "sizes"),
        (SCHEDULES, "schedule", ScheduleConfig, "options"),
        (SAMPLERS, "sampling", SamplingConfig, "options"),
    ],
    ids=("networks", "schedules", "samplers"),
)
def test_sizes_and_options_are_stored_in_one_form(table, part, make, key):
    """The text of the command line, and the lists of JSON, become what Python gives."""
    places = [(name, f) for name in table.names() for f in fields(table.load(name).Config)]
    assert len(places) > 10
    for name, f in places:
        parts = f.default if isinstance(f.default, tuple) else [f.default]
        text = "/".join(str(part) for part in parts)
        for value in (f.default, text, *([list(parts)] if parts is f.default else [])):
            config = make(name, **{key: {f.name: value}})
            stored = typed(replace(get_preset("digits"), **{part: config}))
            found = getattr(getattr(stored, part), key)
            assert found == {f.name: f.default} and type(found[f.name]) is type(f.default)
            assert typed(stored) == stored


def test_a_run_goes_on_with_its_options_in_any_form(trained, tmp_path):
    checkpoint = load_checkpoint(trained / "last.safetensors")
    assert checkpoint.meta["experiment"]["network"]["sizes"] == {**SIZES, "widths": [8, 16]}
    checkpoint.meta["experiment"]["network"]["sizes"]["widths"] = "8/16"  # as it was stored once
    save_checkpoint(tmp_path / "old" / "last.safetensors", checkpoint)
    assert pd.load(tmp_path / "old").sample(1, steps=1).images.shape == (1, 1, 8, 8)
    for k, run in enumerate((trained, tmp_path / "old")):
        for net in (None, NET, SIZES, "widths=8/16", {"widths": [8, 16]}, {"widths": "8/16"}):
            session = start(get_preset("digits"), resume=run, net=net, device="cpu",
                            out=tmp_path / f"{k}", overwrite=True)  # fmt: skip
            session.close()
            assert session.experiment.network.sizes == SIZES
        with pytest.raises(ConfigError):
            start(get_preset("digits"), resume=run, net={"widths": (8, 24)}, device="cpu")


def test_the_counts_in_the_docs_are_these():
    page = (PACKAGE.parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")
    tried, refusals = ([len(each(name)) for name in OPTIONS] for each in (allowed, wrong))
    tables = [NETWORKS.load(name) for name in SMALL]
    tables += [table.load(name) for table in (SCHEDULES, SAMPLERS) for name in table.names()]
    sizes = sum(len(fields(each.Config)) for each in tables)
    # Lower bounds, so that a new option need not be counted there.
    for said, counted in (
        (r"over (\d+) options of training", len(OPTIONS)),
        (r"over (\d+) \| each changes", sum(tried)),
        (r"over (\d+) \| each refused", sum(refusals)),
    ):
        (number,) = re.findall(said, page)
        assert counted >= int(number)
    assert f"| {sizes} sizes and options of {len(SMALL)} networks" in page


# What starts can be loaded -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_that_starts_can_be_loaded_again(tmp_path, monkeypatch):
    """Every option, each in a run of its own: its first checkpoint loads, or nothing is written."""
    monkeypatch.setattr("pocketddpm.runs.run.save_first_pictures", lambda *args: None)
    small = {"net": NET, "batch_size": 4, "steps": 1, "device": "cpu", "precision": "float32"}
    quiet = {"sample_every": 0, "checkpoint_every": 0}
    ran = set()
    # Of a number's values the last, which is within its bounds.
    walk = [
        (name, value)
        for name in OPTIONS
        for value, _, _ in allowed(name)[0 if choices(name) or plain(name) is bool else -1 :]
    ]
    for k, (name, value) in enumerate(walk):
        out = tmp_path / str(k)
        skipped = ("data", "network", "schedule", "net", "schedule_options", "evaluate_every")
        if name in skipped or (name in (*BUDGETS, "batch_size") and isinstance(value, int) > 8):
            continue
        options = {**small, **quiet, name: value}
        if name in BUDGETS and name != "steps":
            del options["steps"]
            options[name] = {"epochs": 0.01, "images": 4, "minutes": 0.001}[name]
        try:
            session = start(get_preset("digits"), out=out, **options)
        except DDPMError:
            assert not out.exists(), (name, value)
            continue
        session.save()
        session.close()
        model = pd.load(out)
        assert value_of(model.experiment, name) == value_of(session.experiment, name)
        ran.add(name)
    assert len(ran) > 30, ran


# A newcomer's ------------------------------------------------------------------------------------

# Of each kind its table's file and the table; a newcomer writes a function and a line.
ADDED = {
    "losses": ("diffusion/losses.py", "LOSSES"),
    "weightings": ("diffusion/weighting.py", "WEIGHTINGS"),
    "times": ("diffusion/times.py", "TIMES"),
    "predictions": ("diffusion/prediction.py", "PREDICTIONS"),
}
MINE = """
def _mine(*args):
    \"\"\"Return what '{known}' does.\"\"\"
    return {original}(*args)


"""
PROGRAM = """
import pocketddpm as pd
from pocketddpm.commands.main import main

pd.train("digits", {options}, net="{net}", steps=1, batch_size=8, sample_every=0, out="run")
model = pd.load("run")
objective = model.experiment.objective
print(objective.loss, objective.weighting, objective.times, objective.prediction)
model.sample(labels=["3"], steps=2)
"""


def test_what_is_added_to_a_table_is_everywhere(tmp_path):
    """A loss, a weighting, a distribution of times, a prediction: a function and a line each."""
    copy = shutil.copytree(
        PACKAGE, tmp_path / "pocketddpm", ignore=shutil.ignore_patterns("weights")
    )
    known = {"losses": "mse", "weightings": "simple", "times": "uniform", "predictions": "v"}
    for kind, (file, table) in ADDED.items():
        before, start, after = (copy / file).read_text().partition(f"\n{table}: ")
        body, end, rest = after.partition("\n}\n")
        original = f"{table}['{known[kind]}']"
        function = MINE.format(known=known[kind], original=original)
        line = f'\n    # Added by a newcomer.\n    "my-{kind}": _mine,'
        (copy / file).write_text(before + function + start.lstrip() + body + line + end + rest)

    def printed(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    help_, listed = (printed("-m", "pocketddpm", *v) for v in (("train", "--help-all"), ("list",)))
    for kind in ADDED:
        assert f"my-{kind}}}" in help_
        assert re.search(rf"^  my-{kind} +Added by a newcomer\.$", listed, re.MULTILINE)
    options = {"loss": "losses", "weighting": "weightings", "times": "times"}
    options["prediction"] = "predictions"
    given = ", ".join(f"{name}='my-{kind}'" for name, kind in options.items())
    stored = printed("-c", PROGRAM.format(options=given, net=NET))
    assert stored.split() == [f"my-{kind}" for kind in options.values()]
