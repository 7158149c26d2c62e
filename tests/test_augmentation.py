"""Augmentation that does not leak: geometry, the stream, what the network learns, whole runs."""

from dataclasses import replace
from math import cos, pi, sin

import numpy as np
import pytest
import torch

import pocketddpm as pd
from pocketddpm.build import build_network, build_schedule
from pocketddpm.config import NetworkConfig
from pocketddpm.convert.unet_names import as_ddpm_unet
from pocketddpm.data import augmentation
from pocketddpm.data.augmentation import CONDITIONS, SCALE, SHIFT, WEIGHT, augmented, draw
from pocketddpm.data.batches import Loader
from pocketddpm.data.image_set import ImageSet
from pocketddpm.diffusion.build import build_objective
from pocketddpm.errors import ConfigError
from pocketddpm.models.checkpoint import load_checkpoint
from pocketddpm.runs.start import start

LEAN = NetworkConfig("lean", {"widths": (8, 16), "blocks": (1, 1), "head_width": 8})
IMAGES = torch.randint(0, 256, (2, 3, 8, 16), generator=torch.Generator().manual_seed(0)).byte()


def changed(monkeypatch, matrix, shift=(0.0, 0.0), images=IMAGES):
    """Return the images after one change, by its way back in pixels and its shift."""
    n = len(images)
    made = (
        torch.tensor(matrix, dtype=torch.float64).expand(n, 2, 2),
        torch.tensor(shift, dtype=torch.float64).expand(n, 2),
        torch.ones(n, CONDITIONS),
    )
    monkeypatch.setattr(augmentation, "draw", lambda *_: made)
    return augmented(images, 1.0, 0, torch.arange(n))[0]


def test_whole_pixels_move_exactly(monkeypatch):
    """Mirrors, shifts by whole pixels, and half a turn; a quarter turn of a square."""
    for matrix, shift, expected in (
        ([[1, 0], [0, 1]], (0, 0), IMAGES),
        ([[-1, 0], [0, 1]], (0, 0), IMAGES.flip(3)),
        ([[1, 0], [0, -1]], (0, 0), IMAGES.flip(2)),
        ([[-1, 0], [0, -1]], (0, 0), IMAGES.flip(2, 3)),
    ):
        torch.testing.assert_close(changed(monkeypatch, matrix, shift), expected, rtol=0, atol=0)
    moved = changed(monkeypatch, [[1, 0], [0, 1]], (3 / 16, -2 / 8))  # right by 3, up by 2
    torch.testing.assert_close(moved[:, :, :-2, 3:], IMAGES[:, :, 2:, :-3], rtol=0, atol=0)
    # The edge is a mirror.
    torch.testing.assert_close(moved[:, :, :-2, :3], IMAGES[:, :, 2:, :3].flip(3), rtol=0, atol=0)
    quarter = [[0, 1], [-1, 0]]
    square = changed(monkeypatch, quarter, images=IMAGES[..., 4:12])
    torch.testing.assert_close(square, torch.rot90(IMAGES[..., 4:12], 1, (3, 2)), rtol=0, atol=0)
    # In pixels, whatever the image's shape: the square in the middle turns as it does alone.
    torch.testing.assert_close(changed(monkeypatch, quarter)[..., 4:12], square, rtol=0, atol=0)


def test_the_condition_says_what_is_done():
    """The change, made from the condition in the order that is promised, undoes the way back."""
    back, shift, condition = draw(0.6, 3, torch.arange(300))
    turned = lambda angle: np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])  # noqa: E731
    for k, (mx, my, scale, c, s, u, v, *by) in enumerate(condition.double().tolist()):
        size, along = np.hypot(u, v), np.arctan2(v, u) / 2
        change = np.diag([1 - 2 * mx, 1 - 2 * my]) * SCALE**scale
        change = turned(np.arctan2(s, c + 1)) @ change
        change = turned(along) @ np.diag([SCALE**size, SCALE**-size]) @ turned(-along) @ change
        np.testing.assert_allclose(back[k].numpy() @ change, np.eye(2), atol=1e-6)
        np.testing.assert_allclose(shift[k].numpy(), np.array(by) * SHIFT, atol=1e-6)


def test_every_kind_has_the_probability_that_was_asked_for():
    _, _, condition = draw(0.25, 0, torch.arange(20000))
    kinds = (condition.view(-1, CONDITIONS) != 0).double().mean(0)
    expected = torch.tensor([0.125, 0.125, *[0.25] * 7], dtype=torch.float64)
    torch.testing.assert_close(kinds, expected, rtol=0, atol=0.012)
    alike = (condition == 0).all(1).double().mean().item()
    assert abs(alike - 0.875**2 * 0.75**4) < 0.012
    assert abs(condition[:, 2].double().std().item() - 0.5) < 0.03  # a quarter of deviation 1
    turns = torch.atan2(condition[:, 4], condition[:, 3] + 1)
    assert abs(turns[turns != 0].double().std().item() - pi / 3**0.5) < 0.05


def images(n=12) -> ImageSet:
    noise = np.random.default_rng(0).integers(0, 256, (n, 1, 8, 8), np.uint8)
    return ImageSet(noise, None, (), "noise")


def test_the_stream_does_not_depend_on_how_it_is_split():
    loader = Loader(images(), batch_size=4, seed=5, device="cpu", augment=0.3)
    whole = loader.batch(0, 60)
    assert whole.augmentation is not None
    assert whole.augmentation.dtype == torch.float32
    for size in (1, 7, 30):
        parts = [loader.batch(k, min(size, 60 - k)) for k in range(0, 60, size)]
        for name in ("images", "augmentation"):
            joined = torch.cat([getattr(part, name) for part in parts])
            torch.testing.assert_close(joined, getattr(whole, name), rtol=0, atol=0)
    plain = Loader(images(), batch_size=4, seed=5, device="cpu").batch(0, 60)
    assert plain.augmentation is None
    # What is not changed keeps every byte, and the order is what it was.
    same = (whole.augmentation == 0).all(1)
    assert 5 < same.sum() < 55
    torch.testing.assert_close(whole.images[same], plain.images[same], rtol=0, atol=0)
    assert ((whole.images != plain.images).flatten(1).any(1) == ~same).all()


def test_at_condition_zero_the_model_knows_the_images_as_they_are(tiny, monkeypatch):
    """Two images, half of them upside down; at high noise the best x0 is the mean of what is meant.

    Without the condition it would be the mean of all, which is the same upside down.
    """

    def only_mirrors(*given):
        back, shift, condition = draw(*given)
        condition[:, [0, *range(2, CONDITIONS)]] = 0
        back = torch.diag_embed(torch.stack([torch.ones(len(back)), 1 - 2 * condition[:, 1]], 1))
        return back.double(), 0 * shift, condition

    monkeypatch.setattr(augmentation, "draw", only_mirrors)
    pair = np.full((2, 1, 8, 8), 30, np.uint8)
    pair[0, :, :3], pair[1, :, :2, :3] = 230, 200
    loader = Loader(ImageSet(pair, None, (), "two"), batch_size=32, seed=0, device="cpu", augment=1)
    chosen = replace(
        tiny,
        network=LEAN,
        data=replace(tiny.data, augment=1.0),
        objective=replace(tiny.objective, prediction="x0"),
    )
    network = build_network(chosen, (1, 8, 8), 0)
    objective = build_objective(chosen.objective, build_schedule(chosen.schedule), null=None)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(100):
        batch = loader.batch(32 * step)
        x0 = batch.images / 127.5 - 1
        told = batch.augmentation
        loss = objective(network, x0, None, batch.stream_index, 0, augmentation=told)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
    noise = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.full((100,), float(chosen.schedule.T))
    told = torch.zeros(100, CONDITIONS)
    mean = torch.from_numpy(pair / 127.5 - 1).float().mean(0)
    with torch.no_grad():
        silent = network(noise, times).mean(0)
        zero = network(noise, times, None, told).mean(0)
        told[:, 1] = 1
        mirrored = network(noise, times, None, told).mean(0)

    def distance(a, b):
        return (a - b).square().mean().sqrt().item()

    torch.testing.assert_close(silent, zero, rtol=0, atol=0)
    apart = distance(mean, mean.flip(1))
    assert distance(zero, mean) < 0.2 * apart
    assert distance(mirrored, mean.flip(1)) < 0.2 * apart


def run(tiny, out, **options):
    session = start(replace(tiny, network=LEAN), out=out, device="cpu", sample_every=0, **options)
    session.run()
    return session


def test_a_run_resumes_exactly_samples_and_is_begun_with(tiny, tmp_path):
    run(tiny, tmp_path / "whole", augment=0.4, steps=8, checkpoint_every=4)
    halfway = tmp_path / "whole" / "previous.safetensors"
    session = start(tiny, resume=str(halfway), out=tmp_path / "parts", device="cpu")
    session.run()
    whole, parts = (
        load_checkpoint(tmp_path / name / "last.safetensors") for name in ("whole", "parts")
    )
    assert whole.tensors.keys() == parts.tensors.keys()
    for name, value in whole.tensors.items():
        torch.testing.assert_close(parts.tensors[name], value, rtol=0, atol=0)
    assert whole.meta["experiment"]["data"]["augment"] == 0.4
    assert whole.part("model")[WEIGHT].abs().max() > 0
    model = pd.load(tmp_path / "whole")
    assert model.sample(2, steps=2).images.shape == (2, 1, 8, 8)
    # The layer is only there where it is used, and does not stand in the way of another run.
    plain = run(tiny, tmp_path / "plain", begin_with=str(tmp_path / "whole"), steps=2)
    assert WEIGHT not in plain.network.state_dict()
    again = run(tiny, tmp_path / "again", begin_with=str(tmp_path / "plain"), steps=2, augment=0.4)
    assert WEIGHT in again.network.state_dict()


def test_the_weights_before_the_layer_are_those_without_it(tiny):
    for network in (LEAN, tiny.network):
        plain = replace(tiny, network=network)
        told = replace(plain, data=replace(plain.data, augment=0.1))
        with_layer, without = (build_network(e, (1, 8, 8), 3).state_dict() for e in (told, plain))
        assert with_layer.pop(WEIGHT).abs().max() == 0
        assert with_layer.keys() == without.keys()
        for name, value in without.items():
            torch.testing.assert_close(with_layer[name], value, rtol=0, atol=0)


def test_a_network_that_cannot_be_told_is_refused(tiny, tmp_path):
    small = NetworkConfig("small-unet", {"widths": (4, 8, 8)})
    with pytest.raises(ConfigError, match=r"small-unet.*--augment"):
        start(replace(tiny, network=small), augment=0.1, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_diffusers_gets_the_network_at_condition_zero(tiny, tmp_path):
    for name, augment in (("plain", 0.0), ("told", 0.4)):
        start(
            tiny, augment=augment, steps=1, out=tmp_path / name, device="cpu", sample_every=0
        ).run()
    plain, told = (as_ddpm_unet(pd.load(tmp_path / name)) for name in ("plain", "told"))
    assert plain[0] == told[0]
    assert plain[1].keys() == told[1].keys()
