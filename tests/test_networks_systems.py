"""The three reference networks: sizes, costs, known answers, and that they learn."""

import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocketddpm.errors import ConfigError
from pocketddpm.models.cost import count_flops, count_parameters
from pocketddpm.networks import conditional, diffunet, small_unet
from pocketddpm.values import from_dict

TINY_UNET = small_unet.Config(widths=(8, 16), time_dim=8)
TINY_CONDITIONAL = conditional.Config(
    widths=(16, 32), attention=(0,), heads=2, head_width=8, time_dim=8
)


def build_small(
    config: small_unet.Config = TINY_UNET,
    channels: int = 1,
    height: int = 28,
    width: int = 28,
    classes: int = 0,
) -> nn.Module:
    return small_unet.build(
        config,
        channels=channels,
        out_channels=channels,
        height=height,
        width=width,
        classes=classes,
    )


def build_conditional(
    config: conditional.Config = TINY_CONDITIONAL,
    channels: int = 1,
    height: int = 32,
    width: int = 32,
    classes: int = 10,
) -> nn.Module:
    return conditional.build(
        config,
        channels=channels,
        out_channels=channels,
        height=height,
        width=width,
        classes=classes,
    )


def build_diffunet(
    channels: int = 1, height: int = 32, width: int = 32, classes: int = 0
) -> nn.Module:
    return diffunet.build(
        diffunet.Config(),
        channels=channels,
        out_channels=channels,
        height=height,
        width=width,
        classes=classes,
    )


def batch(channels: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return x_t, t, y for two images."""
    x = torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([7, 700]), torch.tensor([3, 8])


# Known answers (reference/systems.md)


@torch.no_grad()
def fill(net: nn.Module) -> None:
    """Give every parameter the values of the reference: u_i = ((7919 i) mod 10007)/10007 - 0.5."""
    for module in net.modules():
        for name, p in module.named_parameters(recurse=False):
            if isinstance(module, nn.Embedding) and not p.requires_grad:
                continue  # the frozen time table
            i = torch.arange(p.numel(), dtype=torch.float64)
            u = ((7919 * i) % 10007 / 10007 - 0.5).reshape(p.shape)
            if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                u = 1 + u if name == "weight" else u
            elif p.ndim > 1:
                u = 4 * u / (p.numel() / len(p)) ** 0.5
            p.copy_(u)


def cosine_image(side: int, dtype: torch.dtype) -> Tensor:
    i = torch.arange(2 * side * side, dtype=torch.float64)
    return torch.cos(0.1 * i).reshape(2, 1, side, side).to(dtype)


@torch.no_grad()
def test_small_unet_known_answer() -> None:
    net = build_small(small_unet.Config())
    fill(net)
    out = net.double()(cosine_image(28, torch.float64), torch.tensor([8, 701]), None)
    assert out.sum().item() == pytest.approx(-702.60995, abs=2e-5)
    assert out[0, 0, 0, :3].tolist() == pytest.approx([-0.436406, -0.450588, -0.339352], abs=1e-6)


@torch.no_grad()
def test_conditional_known_answer() -> None:
    net = build_conditional(conditional.Config())
    fill(net)
    _, t, y = batch(1, 32, 32)
    out = net(cosine_image(32, torch.float32), t, y)
    assert out.sum().item() == pytest.approx(-12057.01, rel=1e-3)
    assert out[0, 0, 0, :3].tolist() == pytest.approx([-7.23319, -6.26304, -6.32073], rel=1e-3)


# Sizes and costs


@pytest.mark.parametrize(
    ("make", "side", "parameters", "trained", "gflop"),
    [
        (lambda: build_small(small_unet.Config()), 28, 606_852, 491_172, 0.050),
        (lambda: build_conditional(conditional.Config()), 32, 51_067_777, 51_067_777, 4.96),
        (build_diffunet, 32, 93_555_841, 93_555_841, 6.06),
    ],
    ids=["small-unet", "conditional", "diffunet"],
)
def test_size_and_cost(
    make: Callable[[], nn.Module], side: int, parameters: int, trained: int, gflop: float
) -> None:
    if make is build_diffunet:
        pytest.importorskip("deepinv")
    net = make()
    assert count_parameters(net) == (parameters, trained)
    x, t, y = batch(1, side, side)
    flops = count_flops(net, x[:1], t[:1], y[:1])
    assert flops / 1e9 == pytest.approx(gflop, rel=0.005)
    assert count_flops(net, x, t, y) == 2 * flops
    assert net.training, "counting put the mode back"


def test_count_flops_counts_two_per_multiply_add_and_attention() -> None:
    assert count_flops(nn.Linear(3, 5, bias=False), torch.zeros(7, 3)) == 2 * 7 * 3 * 5
    attention = conditional.Attention(4, heads=2, head_width=8)
    tokens, inner = 6 * 6, 16
    products = 2 * tokens * tokens * inner  # q k and weights v
    convolutions = tokens * 4 * 3 * inner + tokens * inner * 4
    assert count_flops(attention, torch.zeros(1, 4, 6, 6)) == 2 * (products + convolutions)


# Shapes, layouts and precisions


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(28, 28), (32, 32), (28, 32), (12, 8), (6, 4)])
def test_small_unet_shapes(channels: int, height: int, width: int) -> None:
    net = build_small(channels=channels, height=height, width=width)
    x, t, _ = batch(channels, height, width)
    assert net(x, t, None).shape == x.shape


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 24), (4, 4)])
def test_conditional_shapes(channels: int, height: int, width: int) -> None:
    net = build_conditional(channels=channels, height=height, width=width)
    x, t, y = batch(channels, height, width)
    assert net(x, t, y).shape == x.shape


@torch.no_grad()
@pytest.mark.parametrize("build", [small_unet.build, conditional.build])
def test_out_channels_may_differ(build: Callable[..., nn.Module]) -> None:
    config = TINY_UNET if build is small_unet.build else TINY_CONDITIONAL
    net = build(config, channels=1, out_channels=2, height=8, width=8, classes=0)
    x, t, _ = batch(1, 8, 8)
    assert net(x, t, None).shape == (2, 2, 8, 8)


@torch.no_grad()
@pytest.mark.parametrize("widths", [(8,), (4, 8), (4, 6, 8, 10)])
def test_small_unet_depths(widths: tuple[int, ...]) -> None:
    net = build_small(small_unet.Config(widths=widths), height=24, width=16)
    x, t, _ = batch(1, 24, 16)
    assert net(x, t, None).shape == x.shape


@torch.no_grad()
@pytest.mark.parametrize("make", [build_small, build_conditional])
def test_channels_last_changes_only_the_layout(make: Callable[..., nn.Module]) -> None:
    net = make(channels=3)
    x, t, y = batch(3, *((28, 28) if make is build_small else (32, 32)))
    expected = net(x, t, y)
    net = net.to(memory_format=torch.channels_last)
    out = net(x.to(memory_format=torch.channels_last), t, y)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_conditional_in_bfloat16_stays_near_float32(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    net = build_conditional(conditional.Config()).to(memory_format=layout)
    x, t, y = batch(1, 32, 32)
    expected = net(x, t, y)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x.to(memory_format=layout), t, y).float()
    assert out.isfinite().all()
    # Measured 0.018 to 0.024 over seeds: a few roundings of 2^-8 through 40 convolutions.
    assert (out - expected).norm() < 0.05 * expected.norm()


@torch.no_grad()
def test_standardised_filters() -> None:
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    for dtype, eps in [(torch.float32, 1e-5), (torch.float64, 1e-3)]:
        conv = conditional.StandardisedConv2d(3, 4).to(dtype)
        w = conv.weight
        mean = w.mean(dim=(1, 2, 3), keepdim=True)
        variance = w.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        expected = F.conv2d(x.to(dtype), (w - mean) / (variance + eps).sqrt(), conv.bias, padding=1)
        torch.testing.assert_close(conv(x.to(dtype)), expected)


# Time and labels


def test_time_embeddings_at_known_angles() -> None:
    embedding = conditional.sinusoids(torch.tensor([0.5, 300.0]), 4).double()
    t = torch.tensor([0.5, 300.0], dtype=torch.float64)
    expected = torch.stack([t.sin(), t.cos(), (t / 100).sin(), (t / 100).cos()], dim=1)
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-4)
    table = small_unet.time_table(301, 8).double()
    w = torch.tensor([1, 1e-2, 1e-4, 1e-6], dtype=torch.float64)
    torch.testing.assert_close(table[300, 0::2], (300 * w).sin(), rtol=0, atol=1e-6)
    torch.testing.assert_close(table[300, 1::2], (300 * w).cos(), rtol=0, atol=1e-6)


@torch.no_grad()
def test_small_unet_rounds_and_clamps_time() -> None:
    net = build_small(small_unet.Config(widths=(8, 16), time_dim=8, T=50))
    x, _, y = batch(1, 28, 28)
    at = lambda t: net(x, torch.tensor([t, t]), None)  # noqa: E731
    assert torch.equal(at(7.4), at(7))
    assert torch.equal(at(0), at(1))
    assert torch.equal(at(51.0), at(50))
    assert not torch.allclose(at(1), at(50))
    assert torch.equal(net(x, torch.tensor([7, 7]), y), at(7)), "labels are ignored"


@torch.no_grad()
def test_conditional_takes_fractional_times() -> None:
    net = build_conditional()
    x, _, y = batch(1, 32, 32)
    at = lambda t: net(x, torch.tensor([t, t]), y)  # noqa: E731
    assert torch.equal(at(7), at(7.0))
    assert not torch.allclose(at(7.5), at(7), atol=1e-5)
    assert not torch.allclose(at(7.5), at(8), atol=1e-5)


@torch.no_grad()
def test_conditional_labels() -> None:
    net = build_conditional()
    x, t, y = batch(1, 32, 32)
    without = net(x, t, None)
    assert torch.equal(net(x, t, torch.tensor([10, 10])), without)
    mixed = net(x, t, torch.tensor([10, 8]))
    torch.testing.assert_close(mixed[0], without[0])
    torch.testing.assert_close(mixed[1], net(x, t, y)[1])
    assert not torch.allclose(mixed[1], without[1], atol=1e-4)


@torch.no_grad()
def test_conditional_without_classes_has_no_embedding() -> None:
    net = build_conditional(classes=0)
    assert not any(isinstance(m, nn.Embedding) for m in net.modules())
    assert count_parameters(build_conditional())[0] - count_parameters(net)[0] == 10 * 8
    x, t, y = batch(1, 32, 32)
    assert torch.equal(net(x, t, y), net(x, t, None))


# Learning


@pytest.mark.parametrize(
    ("make", "trained"),
    [(lambda: build_small(small_unet.Config()), 491_172), (build_conditional, None)],
    ids=["small-unet", "conditional"],
)
def test_every_trainable_parameter_gets_a_gradient(
    make: Callable[[], nn.Module], trained: int | None
) -> None:
    torch.manual_seed(0)
    net = make()
    x, t, y = batch(1, *((28, 28) if trained else (32, 32)))
    net(x, t, y).square().mean().backward()
    for name, p in net.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.abs().max() > 0, name
        else:
            assert p.grad is None, name
    with_gradient = sum(p.numel() for p in net.parameters() if p.grad is not None)
    assert with_gradient == (trained or count_parameters(net)[0])


def overfit(net: nn.Module, side: int, steps: int, lr: float) -> tuple[float, float]:
    """Return first and last loss of `steps` of Adam on one fixed batch x_t, t, y, eps."""
    x, t, y = batch(1, side, side)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    optimiser = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        loss = F.mse_loss(net(x, t, y), eps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.mark.parametrize("make", [build_small, build_conditional])
def test_overfits_one_batch(make: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    first, last = overfit(make(height=8, width=8), side=8, steps=100, lr=1e-2)
    assert last < first / 10, (first, last)


# The adapter to deepinv


@torch.no_grad()
def test_diffunet_shapes_and_time() -> None:
    pytest.importorskip("deepinv")
    torch.manual_seed(0)
    net = build_diffunet(channels=3, height=16, width=32).eval()
    for p in net.parameters():  # deepinv starts with layers of zeros, which would hide the time
        if not p.any():
            nn.init.normal_(p, std=0.05)
    at = lambda x, t: net(x, torch.tensor([t, t]), None)  # noqa: E731
    x, t, y = batch(3, 16, 32)
    assert net(x, t, y).shape == x.shape
    x, t, _ = batch(3, 32, 32)
    expected = net(x, t, None)
    torch.testing.assert_close(at(x, 7.4), at(x, 7))
    torch.testing.assert_close(at(x, 0), at(x, 1))
    assert not torch.allclose(at(x, 1), at(x, 1000), atol=1e-4)
    net = net.to(memory_format=torch.channels_last)
    out = net(x.to(memory_format=torch.channels_last), t, None)
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_diffunet_learns() -> None:
    pytest.importorskip("deepinv")
    torch.manual_seed(0)
    net = build_diffunet()
    first, last = overfit(net, side=32, steps=3, lr=1e-4)
    assert last < first
    assert all(p.grad is not None for p in net.parameters())


def test_diffunet_without_deepinv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepinv", None)
    monkeypatch.setitem(sys.modules, "deepinv.models", None)
    with pytest.raises(ConfigError, match=r"'pocketddpm\[deepinv\]'"):
        build_diffunet()


# Errors

SMALL, COND = small_unet.Config, conditional.Config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(build_small, classes=10), "small-unet.* 10 classes"),
        (partial(build_small, SMALL(), width=7), " 8, .*28x7"),
        (partial(build_small, SMALL(widths=())), r"widths.* \(\)"),
        (partial(from_dict, SMALL, {"widths": (8, 0)}), "widths .*>= 1.* 0"),
        (partial(build_small, SMALL(time_dim=7)), "time_dim.* 7"),
        (partial(from_dict, SMALL, {"T": 0}), "T .*>= 1.* 0"),
        (partial(build_conditional, COND(), height=28), " 16, .*28x32.*lean.*32x32"),
        (partial(build_conditional, COND(), width=0), " 16, .*32x0.*lean.*32x16"),
        (partial(build_conditional, COND(widths=())), r" 8, .*\(\)"),
        (partial(build_conditional, COND(widths=(8, 12), attention=())), r" 8, .*\(8, 12\)"),
        (partial(build_conditional, COND(attention=(4,))), r" 0\.\.3.*\(4,\)"),
        (partial(build_conditional, COND(attention=(-1,))), r" 0\.\.3.*\(-1,\)"),
        (partial(from_dict, COND, {"heads": 0}), "heads .*>= 1.* 0"),
        (partial(from_dict, COND, {"head_width": 0}), "head_width .*>= 1.* 0"),
        (partial(build_conditional, COND(time_dim=3)), "time_dim.* 3"),
        (partial(build_conditional, classes=-1), "classes >= 0.* -1"),
        (partial(build_diffunet, classes=10), "diffunet.* 10 classes"),
        (partial(build_diffunet, height=8), "16 to 512 .* 8x32"),
        (partial(build_diffunet, width=513), "16 to 512 .* 32x513"),
    ],
)
def test_impossible_sizes_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
