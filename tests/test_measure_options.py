"""Every option of the verbs that measure: wrong values are refused by name, at every door."""

from dataclasses import fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import pocketddpm as pd
from pocketddpm.config import Options
from pocketddpm.errors import ConfigError
from pocketddpm.metrics.options import EvaluateOptions, ExtractorOptions, LikelihoodOptions
from pocketddpm.runs.options import CompareOptions, ReproduceOptions
from pocketddpm.values import from_dict, option_of
from test_cli import run

NAN, INF = float("nan"), float("inf")
WRONG = {
    bool: ["maybe", 2, 0.0],
    int: [1.5, "x", NAN, INF, True, [1]],
    float: ["x", NAN, INF, True, [1]],
    str: [3, ["a"], True],
    Path: [3, ["a"], True],
}
VERBS = {
    "evaluate": (EvaluateOptions, lambda **o: pd.evaluate("absent", **o), ["absent"]),
    "likelihood": (LikelihoodOptions, lambda **o: pd.likelihood("absent", **o), ["absent"]),
    "extractor": (
        ExtractorOptions,
        lambda **o: from_dict(ExtractorOptions, o),
        ["absent", "--out", "x.safetensors"],
    ),
    "compare": (CompareOptions, lambda **o: from_dict(CompareOptions, o), ["absent"]),
    "reproduce": (ReproduceOptions, lambda **o: from_dict(ReproduceOptions, o), ["absent"]),
}


def wrong_values(hint, bound):
    """Return values that the type and the bound of an option do not allow."""
    hint = next((a for a in get_args(hint) if a is not type(None)), hint) if (
        type(None) in get_args(hint)
    ) else hint  # fmt: skip
    if get_origin(hint) is Literal:
        return ["banana", 3, True]
    if hint == Options:
        return ["eta", 3, [1], {"eta": slice(1)}]
    if get_origin(hint) is tuple:
        return [(1.5,) if get_args(hint)[0] is int else (3,), 1.5]
    below = [int(part.split()[1]) - 1 for part in bound.split(", ") if part.startswith(">=")]
    return [*WRONG[hint], *below]


CASES = [
    (verb, f.name, value)
    for verb, (kind, _, _) in VERBS.items()
    for f in fields(kind)
    for value in wrong_values(get_type_hints(kind)[f.name], option_of(f).bound)
]


@pytest.mark.parametrize(("verb", "name", "value"), CASES, ids=str)
def test_wrong_values_are_refused(verb, name, value):
    with pytest.raises(ConfigError, match=name) as refusal:
        VERBS[verb][1](**{name: value})
    assert "\n" not in str(refusal.value)


def is_typed(case) -> bool:
    """Whether a wrong value can be typed: it is no flag, and the option does not take any text."""
    verb, name, value = case
    hint = get_type_hints(VERBS[verb][0])[name]
    kinds = {hint, *get_args(hint)}
    return type(value) in (int, float, str) and not kinds & {bool, str, Path}


@pytest.mark.parametrize(("verb", "name", "value"), list(filter(is_typed, CASES)), ids=str)
def test_wrong_text_is_refused(verb, name, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run(verb, *VERBS[verb][2], f"--{name.replace('_', '-')}", value)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert name in said.replace("-", "_")
    assert "absent" not in said, "the subject was looked at first"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_options_are_refused(verb):
    with pytest.raises(ConfigError, match=r"sead.*seed|devise.*device"):
        VERBS[verb][1](**({"devise": "cpu"} if verb in ("extractor", "reproduce") else {"sead": 1}))


def test_values_of_pythons_own_types_are_taken():
    options = from_dict(
        EvaluateOptions,
        {
            "n": 25,
            "sampler_options": {"eta": 1.0},
            "labels": ["a,b", "c"],
            "out": "folder",
            "tstr": True,
            "guidance": 1,
        },
    )
    assert options.labels == ("a,b", "c")
    assert options.sampler_options == {"eta": 1.0}
    assert (options.out, options.tstr, options.guidance) == (Path("folder"), True, 1.0)
    assert from_dict(EvaluateOptions, {"labels": "3,7"}).labels == ("3", "7")
    assert from_dict(ExtractorOptions, {"image_size": 8}).image_size == (8, 8)
