"""Conformance of every network in the catalogue, and what the U-Net promises."""

import pytest
import torch
from torch.testing import assert_close

from pocketddpm.build import build_network
from pocketddpm.catalog import NETWORKS
from pocketddpm.config import DataConfig, Experiment, NetworkConfig, ScheduleConfig
from pocketddpm.errors import ConfigError
from pocketddpm.models.cost import count_flops

# Sizes that make each network small enough for a test; a new network works without an entry.
SMALL = {
    "unet": {"widths": (8, 16), "head_width": 8, "groups": 4},
    "conditional": {
        "widths": (16, 32),
        "attention": (0,),
        "heads": 2,
        "head_width": 8,
        "time_dim": 16,
    },
    "ddpm-unet": {"widths": (8, 16), "groups": 4},
    "small-unet": {"widths": (4, 8, 12), "time_dim": 16},
    "lean": {"widths": (16, 32), "blocks": (1, 2), "head_width": 8},
}
LIGHT = [name for name in NETWORKS.names() if name != "diffunet"]  # 94M: its own file tests it


def build(name, shape=(1, 32, 32), classes=0, **sizes):
    experiment = Experiment(
        "test", DataConfig("x"), NetworkConfig(name, {**SMALL.get(name, {}), **sizes})
    )
    return build_network(experiment, shape, classes)


def inputs(shape, batch=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, *shape, generator=generator)
    return x, torch.tensor([1.0, 500.0, 1000.0])[:batch]


def wake(net):
    """Give zero-initialised last layers something to say."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
    return net.eval()


@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 16, 32)])
@pytest.mark.parametrize("name", LIGHT)
def test_every_network_keeps_the_contract(name, shape):
    net = wake(build(name, shape))
    x, t = inputs(shape)
    kept = x.clone()
    out = net(x, t, None)
    assert out.shape == x.shape
    assert out.dtype == torch.float32
    assert_close(x, kept, rtol=0, atol=0)
    assert bool(torch.isfinite(out).all())
    # Images do not see each other, and time matters.
    assert_close(net(x[1:2], t[1:2], None), out[1:2], rtol=1e-4, atol=1e-5)
    assert float((net(x, t.flip(0), None) - out)[0].abs().max()) > 1e-6


@torch.no_grad()
@pytest.mark.parametrize("name", [n for n in LIGHT if NETWORKS.load(n).CONDITIONAL])
def test_every_conditional_network_keeps_the_contract(name):
    net = wake(build(name, classes=5))
    x, t = inputs((1, 32, 32))
    labels = net(x, t, torch.tensor([0, 4, 2]))
    null = net(x, t, torch.full((3,), 5))
    assert_close(net(x, t, None), null, rtol=0, atol=0)
    assert float((labels - null).abs().max()) > 1e-6


@pytest.mark.parametrize("name", LIGHT)
def test_every_trainable_parameter_gets_a_gradient(name):
    """Distributed training fails on trainable parameters that are not used."""
    classes = 5 if NETWORKS.load(name).CONDITIONAL else 0
    net = wake(build(name, classes=classes)).train()
    x, t = inputs((1, 32, 32))
    y = torch.tensor([0, 4, 2]) if classes else None
    net(x, t, y).square().mean().backward()
    missing = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


@pytest.mark.parametrize("name", LIGHT)
def test_weights_are_a_function_of_the_seed(name):
    torch.manual_seed(1)
    one = build(name).state_dict()
    state = torch.get_rng_state()
    two = build(name).state_dict()
    assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    for key, tensor in one.items():
        assert_close(two[key], tensor, rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", LIGHT)
def test_every_network_works_in_bf16(name):
    net = wake(build(name))
    x, t = inputs((1, 32, 32))
    plain = net(x, t, None)
    with torch.autocast("cpu", torch.bfloat16):
        fast = net.to(memory_format=torch.channels_last)(x, t, None).float()
    assert float((fast - plain).norm() / plain.norm()) < 0.05


@torch.no_grad()
def test_the_unet_begins_as_zero_and_scales():
    net = build("unet")
    x, t = inputs((1, 32, 32))
    assert_close(net(x, t), torch.zeros_like(x), rtol=0, atol=0)
    assert len(build("unet", widths=(8, 8, 8), blocks=2, attention=0).down) == 8


@torch.no_grad()
def test_patches_make_the_same_widths_cheaper():
    x, t = inputs((1, 32, 32))
    plain, patched = build("unet"), build("unet", patch=2)
    assert wake(patched)(x, t).shape == x.shape
    # Attention, whose cost falls sixteenfold, and the embeddings, whose cost stays, blur the four.
    assert 3 < count_flops(plain, x, t) / count_flops(patched, x, t) < 8


@torch.no_grad()
def test_the_unet_drops_out_only_in_training():
    net = wake(build("unet", dropout=0.5))
    x, t = inputs((1, 32, 32))
    assert_close(net(x, t), net(x, t), rtol=0, atol=0)
    net.train()
    assert float((net(x, t) - net(x, t)).abs().max()) > 0


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ((1, 8, 8), {"widths": ()}, "unet .*widths"),
        ((1, 7, 7), {"widths": (8,) * 40}, "unet .*7x7"),
        ((1, 8, 8), {"widths": (10,)}, "groups = 4.* 10"),
        ((1, 8, 8), {"attention": 3}, r"attention .*0\.\.2.* 3"),
        ((1, 8, 8), {"blocks": "two"}, "blocks .*'two'"),
        ((1, 8, 8), {"patch": 0}, "patch .*1.* 0"),
    ],
)
def test_impossible_unets_are_refused(shape, sizes, message):
    with pytest.raises(ConfigError, match=message):
        build("unet", shape, **sizes)


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        ((1, 8, 8), {"blocks": (1,)}, r"blocks .*widths.*\(1,\)"),
        ((1, 7, 7), {"patch": 32}, "lean .* 64 .*7x7"),
        ((1, 8, 8), {"blocks": (0, 1)}, "blocks .*>= 1.* 0"),
        ((1, 8, 8), {"patch": 0}, "patch .*1.* 0"),
        ((1, 8, 8), {"widths": (15, 32)}, r"width .*\(15, 32\)"),
        ((1, 8, 8), {"widths": (16, 20)}, "head_width = 8.* 20"),
    ],
)
def test_impossible_lean_networks_are_refused(shape, sizes, message):
    with pytest.raises(ConfigError, match=message):
        build("lean", shape, **sizes)


@torch.no_grad()
def test_the_lean_network_begins_as_zero_and_takes_any_depth():
    x, t = inputs((3, 32, 64))
    net = build("lean", (3, 32, 64), widths=(16, 16, 32), blocks=(1, 2, 1), patch=4)
    assert_close(net(x, t), torch.zeros_like(x), rtol=0, atol=0)
    assert wake(net)(x, t).shape == x.shape
    plain = wake(build("lean", attention=False, widths=(16, 18), blocks=(1, 1)))
    assert plain(x[:, :1], t).shape == (3, 1, 32, 64)


@torch.no_grad()
def test_the_path_beside_the_lean_network_is_linear_in_the_image():
    (x, t), y = inputs((3, 8, 12)), torch.tensor([0, 1, 2])
    net = build("lean", (3, 8, 12), classes=3, linear=True)
    assert_close(net(x, t, y), torch.zeros_like(x), rtol=0, atol=0)
    wake(net)
    net.conv_out.weight.zero_()
    net.conv_out.bias.zero_()
    z = torch.randn_like(x)
    assert_close(net(2 * x + z, t, y), 2 * net(x, t, y) + net(z, t, y))
    assert not torch.allclose(net(x, t, y), net(x, t.flip(0), y), rtol=0.01)
    assert not torch.allclose(net(x, t, y), net(x, t, y.flip(0)), rtol=0.01)


def test_tables_of_times_follow_the_schedule():
    experiment = Experiment(
        "test",
        DataConfig("x"),
        NetworkConfig("small-unet", SMALL["small-unet"]),
        ScheduleConfig("linear", T=50),
    )
    net = build_network(experiment, (1, 32, 32), 0)
    assert [50, 16] in [list(p.shape) for p in net.parameters()]
