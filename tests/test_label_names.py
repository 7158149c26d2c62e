"""Labels in every form: names and numbers are never taken for each other."""

import numpy as np
import pytest

import pocketddpm as pd
from models import Labelled, model_around
from pocketddpm.errors import ConfigError
from pocketddpm.models.labels import class_number, listed_numbers
from test_cli import refused, run

SETS = {
    "digits": tuple("0123456789"),
    "some digits": ("1", "3", "7"),
    "shuffled digits": ("3", "1", "0", "2"),
    "fashion": ("T-shirt/top", "Trouser", "Coat", "Sneaker", "Ankle boot"),
    "commas": ("red, green", "blue", "red", "green,blue"),
    "cases": ("cat", "Cat", "DOG"),
    "numbers among names": ("cat", "2", "dog"),
    "signs": ("漢", "é", "a b", "no-label?"),
}
EVERY = [(name, k) for name, classes in SETS.items() for k in range(len(classes))]


def drawn(classes, labels, **options):
    model = model_around(Labelled(null=len(classes)), classes=classes, **options)
    samples = model.sample(labels=labels, steps=1)
    assert samples.labels is not None
    return samples.labels.tolist()


@pytest.mark.parametrize(("name", "k"), EVERY)
def test_a_name_means_its_class_as_text_list_and_tuple(name, k):
    classes = SETS[name]
    called = classes[k]
    assert drawn(classes, called) == drawn(classes, [called]) == drawn(classes, (called,)) == [k]
    assert drawn(classes, f" {called} ") == [k]


@pytest.mark.parametrize(("name", "k"), EVERY)
def test_an_array_of_positions_is_taken_as_it_is(name, k):
    """What `Samples.labels` holds can be drawn again."""
    assert drawn(SETS[name], np.array([k])) == [k]


@pytest.mark.parametrize(("name", "k"), EVERY)
def test_a_whole_number_is_a_position_or_refused_never_another_class(name, k):
    """`labels="3"` and `labels=[3]` never differ silently, where classes are called 1, 3, 7."""
    classes = SETS[name]
    other = classes[k].isdecimal() or str(k) in classes
    for labels in (k, [k], (k,)):
        if classes[k] == str(k) or not other:
            assert drawn(classes, labels) == [k]
            continue
        with pytest.raises(ConfigError) as caught:
            drawn(classes, labels)
        assert str(k) in str(caught.value) and classes[k] in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (SETS["some digits"], [3]),  # was "no label", of which the text "3" is class 1
        (SETS["some digits"], 3),
        (SETS["some digits"], [1, 3]),
        (SETS["shuffled digits"], [0]),
        (SETS["numbers among names"], [2]),
    ],
    ids=str,
)
def test_numbers_that_are_names_of_other_classes_are_refused(classes, labels):
    with pytest.raises(ConfigError, match="as text"):
        drawn(classes, labels)


@pytest.mark.parametrize(
    ("name", "text", "numbers"),
    [
        ("fashion", "sneaker", [3]),
        ("fashion", "SNEAKER,ankle BOOT", [3, 4]),
        ("fashion", "0,4", [0, 4]),
        ("commas", "red, green", [0]),
        ("commas", "red,green", [0]),
        ("commas", "red", [2]),
        ("commas", "blue,red", [1, 2]),
        ("commas", "red,blue", [2, 1]),
        ("commas", "red, green,blue", [0, 1]),
        ("commas", "blue,green,blue,red", [1, 3, 2]),
        ("cases", "cat,Cat,dog", [0, 1, 2]),
        ("digits", "no-label,3", [10, 3]),
        ("signs", "漢,É", [0, 1]),
    ],
    ids=str,
)
def test_text_is_read_as_people_write_it(name, text, numbers):
    assert drawn(SETS[name], text) == numbers


@pytest.mark.parametrize(
    ("name", "text", "near"),
    [
        ("fashion", "Boot", "Ankle boot"),
        ("fashion", "boots", "Ankle boot"),
        ("fashion", "shirt", "T-shirt/top"),
        ("fashion", "Traoser", "Trouser"),
        ("cases", "CAT", "cat"),  # two are called so
    ],
)
def test_what_is_no_class_is_refused_with_the_nearest(name, text, near):
    with pytest.raises(ConfigError) as caught:
        drawn(SETS[name], text)
    message = str(caught.value)
    assert message.index(near) < message.index("choose from"), message


@pytest.mark.parametrize("text", ["", ",", "3,", "11", "-1", "1.5", "none", "no label"])
def test_no_class_at_all(text):
    with pytest.raises(ConfigError, match="unknown label"):
        listed_numbers(text, SETS["digits"])


def test_a_class_called_no_label_is_that_class():
    assert class_number("no-label", ("a", "no-label")) == 1
    assert class_number("No-Label", ("a", "b")) == 2


def test_models_without_labels_take_none():
    for labels in ("3", [3], np.array([3]), "no-label"):
        with pytest.raises(ConfigError, match="without labels"):
            model_around(Labelled(), classes=()).sample(labels=labels, steps=1)
    with pytest.raises(ConfigError, match="without labels"):
        class_number("3", ())


# The images' own labels --------------------------------------------------------------------------


def asked(what, model, **options):
    """Return the labels that an edit of two digits is drawn with."""
    settings = {"index": (3, 3, 4), "jump_count": 1, "steps": 12, "device": "cpu", **options}
    mask = {"mask": (0, 0, 4, 4)} if what == "inpaint" else {}
    return pd.edit(what, model, "digits", **mask, **settings).labels


@pytest.mark.parametrize("what", ["img2img", "inpaint"])
def test_an_edit_draws_the_images_own_classes(what):
    classes = SETS["digits"]
    model = model_around(Labelled(), (1, 8, 8), classes)
    own = pd.load_images("digits").labels
    assert own is not None
    labels = asked(what, model)
    assert labels is not None and labels.tolist() == own[[3, 3, 4]].tolist()
    assert asked(what, model, labels=None) is None
    given = asked(what, model, labels="7")
    assert given is not None and given.tolist() == [7, 7, 7]
    # The model's order counts, not the data set's.
    turned = asked(what, model_around(Labelled(), (1, 8, 8), classes[::-1]))
    assert turned is not None and turned.tolist() == (9 - own[[3, 3, 4]]).tolist()
    # A model of other classes cannot be told them.
    assert asked(what, model_around(Labelled(), (1, 8, 8), ("a", "b"))) is None


def test_between_images_of_two_classes_there_is_no_label():
    model = model_around(Labelled(), (1, 8, 8), sampler="ddim")
    own = pd.load_images("digits").labels
    assert own is not None and own[3] != own[4]
    labels = asked("interpolate", model, frames=2)
    assert labels is not None and labels.tolist() == [own[3]] * 2 + [10] * 2


def test_the_commands_default_is_the_images_own(capsys, tmp_path):
    """`mnist-fast` must be told a label: of a data set it is known, of a file it is not."""
    out = tmp_path / "x.png"
    args = ("edit", "img2img", "mnist-fast", "--device", "cpu", "--out", out, "--overwrite")
    run(*args, "--images", "mnist", "--index", "0,1", "--strength", "0.9")
    pd.sample("mnist", 1, out=tmp_path / "one.png", steps=1, device="cpu")
    message = refused(capsys, *args, "--images", tmp_path / "one.png", "--strength", "0.9")
    assert "label" in message
    run(*args, "--images", tmp_path / "one.png", "--strength", "0.9", "--labels", "3")
    run(*args, "--images", "mnist", "--index", "0,1,2", "--strength", "0.9", "--labels", "3,5")


def test_the_readme_s_inpainting_fits_few_steps(tmp_path):
    """`edit inpaint mnist` repeats in stretches that fit the model's own ten steps."""
    run("edit", "inpaint", "mnist", "--images", "mnist", "--index", "0", "--box", "14,0,28,28",
        "--jump-count", "2", "--device", "cpu", "--out", tmp_path / "x.png")  # fmt: skip
    assert (tmp_path / "x.png").exists()
