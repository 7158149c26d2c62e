"""What is written for speed gives what the plain form gives: values, losses, pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

import pocketddpm as pd
from conftest import with_training
from pocketddpm.config import NetworkConfig, ObjectiveConfig, OptimiserConfig, ScheduleConfig
from pocketddpm.networks.lean import Attention
from pocketddpm.runs.options import RunOptions
from pocketddpm.runs.run import Session
from test_networks import LIGHT, build, inputs, wake


def with_gradients(net, x, *rest):
    """Return the output, and the gradients of its squares with respect to x and the weights."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = net(x, *rest)
    out.square().sum().backward()
    found = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return out.detach(), {"x": x.grad, **found}


def test_attention_in_full_is_torchs_own():
    net = wake(Attention(32, 8))
    x, embedding = inputs((32, 7, 7))[0], torch.zeros(3, 8)

    def plain(x):
        b, c, h, w = x.shape
        tokens = F.layer_norm(x.flatten(2).mT, (c,))
        q, k, v = net.qkv(tokens).view(b, h * w, 3, 4, 8).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, c)
        return x + net.out(mixed).mT.reshape(b, c, h, w)

    x = x.requires_grad_()
    fast, slow = net(x, embedding), plain(x)
    assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(y.square().sum(), [x, net.qkv.weight]) for y in (fast, slow)]
    assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", LIGHT)
def test_the_layout_of_memory_changes_nothing(name):
    net = wake(build(name)).double()
    x, t = inputs((1, 32, 32))
    plain = with_gradients(net, x.double(), t, None)
    net = net.to(memory_format=torch.channels_last)
    fast = with_gradients(net, x.double().to(memory_format=torch.channels_last), t, None)
    assert_close(fast, plain, rtol=1e-8, atol=1e-8)


def test_bf16_learns_as_float32_does(tiny, tmp_path):
    """The fast recipe on the same images, times and noise: the same losses, but for rounding."""
    losses = {}
    for precision in ("float32", "bf16"):
        experiment = replace(
            with_training(tiny, steps=150, precision=precision),
            data=replace(tiny.data, center=True),
            network=NetworkConfig("lean", {"widths": (16, 32), "blocks": (1, 1), "head_width": 8}),
            schedule=ScheduleConfig("log-linear"),
            objective=ObjectiveConfig("edm", weighting="edm", times="log-normal", guidance=1.5),
            optimiser=OptimiserConfig("muon", lr=5e-3, warmup=0),
        )
        session = Session(
            experiment, tmp_path / precision, RunOptions(device="cpu", sample_every=0)
        )
        session.run()
        losses[precision] = np.array(session.log.loss)
    assert losses["float32"][-20:].mean() < 0.92 * losses["float32"][:20].mean()
    assert (losses["bf16"] != losses["float32"]).any()
    np.testing.assert_allclose(losses["bf16"], losses["float32"], rtol=0.002)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("mnist", 30), ("mnist-fast", 100)])
def test_bf16_draws_the_same_digits(name, count):
    """The mean difference over an image, in grey levels: rounding, and no other digit."""
    model = pd.load(name)
    labels = [k % 10 for k in range(count)]
    plain = model.sample(labels=labels, precision="float32").images.astype(float)
    fast = model.sample(labels=labels, precision="bf16").images.astype(float)
    difference = np.abs(fast - plain).mean((1, 2, 3))
    assert 0 < np.median(difference) < 0.3
    assert difference.max() < 1
