"""Images of every size from 7x7 on, grey and colour, in the two networks that are ours."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from pocketddpm.build import build_network, build_schedule
from pocketddpm.catalog import NETWORKS
from pocketddpm.config import Experiment, NetworkConfig
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.scaling import Scaling
from pocketddpm.data.split import Parts
from pocketddpm.errors import ConfigError
from pocketddpm.models.model import Model
from pocketddpm.networks._common import cropped, padded
from pocketddpm.presets import get_preset
from pocketddpm.runs.data import RunData
from pocketddpm.runs.run import build_trainer
from test_networks import wake

SIZES = [
    (7, 7), (7, 9), (8, 8), (11, 19), (13, 13), (16, 9), (17, 23), (24, 33),
    (28, 28), (30, 30), (31, 48), (40, 65), (65, 40), (64, 64),
]  # fmt: skip
TINY = {
    "lean": {"widths": (8, 8), "blocks": (1, 1), "head_width": 8},
    "unet": {"widths": (8, 8, 8), "head_width": 8, "groups": 4},
}
FACTORS = {"lean": 4, "unet": 4}  # to which the tiny networks pad


def network(name: str, shape: tuple[int, int, int], classes: int = 0, **sizes: object):
    tiny = NetworkConfig(name, {**TINY[name], **sizes})
    return build_network(replace(get_preset("digits"), network=tiny), shape, classes)


def images(shape: tuple[int, int, int], count: int = 4) -> ImageSet:
    values = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    return ImageSet(values, np.arange(count) % 2, ("a", "b"), "random")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("name", TINY)
def test_every_size_trains_and_samples(name, size, channels):
    """A step of the whole objective with the mean removed, then three steps of a sampler."""
    shape, base = (channels, *size), get_preset("mnist")
    training = replace(base.training, minutes=None, steps=1, batch_size=2, precision="float32")
    experiment: Experiment = replace(
        base, network=NetworkConfig(name, TINY[name]), training=training
    )
    found, device = images(shape), torch.device("cpu")
    scaling = Scaling().centered(found.images, device)
    data = RunData(experiment.data, Parts(found), scaling, found.classes, "")
    trainer = build_trainer(experiment, data, device)
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    (result,) = trainer.steps()
    assert bool(torch.isfinite(result.loss))
    assert any(not v.equal(before[k]) for k, v in trainer.network.state_dict().items())
    model = Model(
        experiment=experiment,
        network=wake(trainer.network),
        schedule=build_schedule(experiment.schedule),
        scaling=scaling,
        shape=shape,
        classes=found.classes,
        class_counts=(2, 2),
        meta={},
        device=device,
    )
    drawn = model.sample(2, steps=3)
    assert drawn.images.shape == (2, *shape)
    assert drawn.images[0].std() > 0


@torch.no_grad()
@pytest.mark.parametrize("size", [(7, 7), (30, 30), (65, 40)])
@pytest.mark.parametrize("name", TINY)
def test_the_padding_is_zeros_at_the_end(name, size):
    net = wake(network(name, (3, *size)))
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3.0, 700.0])
    larger = [-side % FACTORS[name] for side in size]
    whole = F.pad(x, (0, larger[1], 0, larger[0]))
    assert_close(net(x, t), net(whole, t)[:, :, : size[0], : size[1]], rtol=0, atol=0)


def test_where_nothing_is_missing_nothing_is_done():
    x = torch.randn(1, 3, 8, 12)
    assert padded(x, 4) is x
    assert cropped(x, x) is x


@pytest.mark.parametrize("name", TINY)
def test_every_pixel_is_seen_and_answered(name):
    net = wake(network(name, (1, 7, 9)))
    x = torch.randn(1, 1, 7, 9, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = net(x, torch.tensor([500.0]))
    out.square().sum().backward()
    assert x.grad is not None
    assert bool((out != 0).all())
    assert bool((x.grad != 0).all())


@pytest.mark.parametrize("name", TINY)
def test_a_padded_network_is_one_graph(name):
    """For compilers and exporters: nothing depends on values, and the batch may be of any size."""
    net = wake(network(name, (1, 7, 9)))
    x, t = torch.randn(3, 1, 7, 9), torch.tensor([1.0, 500.0, 900.0])
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(net, (x[:2], t[:2]), dynamic_shapes=(batch, batch))
    with torch.no_grad():
        assert_close(exported.module()(x, t), net(x, t))


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (128, 128), (100, 60)])
@pytest.mark.parametrize("name", TINY)
def test_the_default_sizes_take_every_image(name, size):
    with torch.device("meta"):
        net = build_network(
            replace(get_preset("digits"), network=NetworkConfig(name)), (3, *size), 10
        )
        x, t = torch.empty(2, 3, *size), torch.empty(2)
        assert net(x, t, torch.empty(2, dtype=torch.int64)).shape == x.shape


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("name", [n for n in NETWORKS.names() if n not in (*TINY, "diffunet")])
def test_published_networks_take_a_size_or_say_which(name, size):
    """Their design decides: they work, or one line names the size, and a network that works."""
    tiny = {
        "conditional": {"widths": (8, 8), "attention": (0,), "heads": 1, "head_width": 8},
        "ddpm-unet": {"widths": (8, 8), "groups": 4},
        "small-unet": {"widths": (4, 4, 4), "time_dim": 8},
    }[name]
    experiment = replace(get_preset("digits"), network=NetworkConfig(name, tiny))
    fits = {
        "conditional": lambda side: side % 4 == 0,
        "ddpm-unet": lambda side: side % 2 == 0,
        "small-unet": lambda side: side >= 8,
    }[name]
    if all(fits(side) for side in size):
        x = torch.randn(1, 1, *size)
        assert build_network(experiment, (1, *size), 0)(x, torch.tensor([5.0])).shape == x.shape
    else:
        with pytest.raises(ConfigError, match=rf"{name}.*{size[0]}x{size[1]}.*lean"):
            build_network(experiment, (1, *size), 0)
