"""Muon: against torch's own on matrices, and which weights are its business."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pocketddpm.config import OptimiserConfig
from pocketddpm.training import optimiser
from pocketddpm.training.optimiser import (
    Muon,
    build_optimisers,
    hidden_matrices,
    load_optimisers,
    optimiser_tensors,
    orthogonalised,
)
from test_networks import build


def gradients(shape, steps):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_steps_are_those_of_torch_on_matrices(shape):
    start = gradients(shape, 1)[0]
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = Muon([ours], lr=0.01, weight_decay=0.1)
    if not hasattr(torch.optim, "Muon"):
        pytest.skip(f"torch {torch.__version__} has no torch.optim.Muon to compare with")
    other = torch.optim.Muon(
        [theirs], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for grad in gradients(shape, 4):
        before = theirs.detach().clone()
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        mine.step()
        other.step()
        # The same bfloat16 arithmetic in another order: the steps agree to its precision.
        step = float((theirs - before).detach().norm())
        assert float((ours - theirs).detach().norm()) < 0.02 * step * 4
    assert_close(mine.state[ours]["momentum"], other.state[theirs]["momentum_buffer"])


def test_convolutions_are_matrices_of_their_output_channels():
    grad = gradients((16, 16, 3, 3), 1)[0]
    conv, matrix = nn.Parameter(torch.zeros(16, 16, 3, 3)), nn.Parameter(torch.zeros(16, 144))
    conv.data = conv.data.to(memory_format=torch.channels_last)
    for p, g in ((conv, grad), (matrix, grad.flatten(1))):
        p.grad = g
        Muon([p], lr=0.1, weight_decay=0.0).step()
    assert_close(conv.detach().flatten(1), matrix.detach())
    assert conv.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 16, 64), (2, 64, 16), (1, 32, 32)])
def test_singular_values_come_near_one(shape):
    values = torch.linalg.svdvals(orthogonalised(gradients(shape, 1)[0]).float())
    smallest = 0.3 if shape[1] == shape[2] else 0.6  # square matrices have some near 0
    assert smallest < float(values.min()) <= float(values.max()) < 1.3


def test_muon_computes_in_what_the_device_multiplies(monkeypatch):
    """bfloat16 only where it is native; the steps differ by its rounding."""
    matrices, steps = gradients((3, 64, 128), 1)[0], {}
    for native in (True, False):
        monkeypatch.setattr(optimiser, "multiplies_bf16", lambda device, native=native: native)
        steps[native] = orthogonalised(matrices)
    assert steps[True].dtype == torch.bfloat16
    assert steps[False].dtype == torch.float32
    difference = (steps[True] - steps[False]).norm() / steps[False].norm()
    assert 1e-4 < float(difference) < 0.1


def test_an_empty_gradient_gives_no_step():
    p = nn.Parameter(torch.ones(16, 16))
    p.grad = torch.zeros(16, 16)
    Muon([p], lr=0.1, weight_decay=0.0).step()
    assert_close(p.detach(), torch.ones(16, 16), rtol=0, atol=0)


def test_muon_gets_the_hidden_matrices_and_adamw_the_rest():
    net = build("lean", classes=20, widths=(16, 32), blocks=(1, 1), head_width=8)
    chosen = {id(p) for p in hidden_matrices(net)}
    names = {name for name, p in net.named_parameters() if id(p) in chosen}
    assert "down.0.0.conv1.weight" in names
    assert "bottom.1.qkv.weight" in names
    rest = {name for name, _ in net.named_parameters()} - names
    assert {"conv_in.weight", "conv_out.weight", "embed_label.weight"} < rest
    assert all(name.endswith(".bias") or net.get_parameter(name).ndim > 1 for name in rest)
    optimisers = build_optimisers(OptimiserConfig(name="muon"), net)
    held = [p for each in optimisers for g in each.param_groups for p in g["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(net.parameters()))


def test_a_network_without_hidden_matrices_is_left_to_adamw():
    (only,) = build_optimisers(OptimiserConfig(name="muon"), nn.Linear(3, 3))
    assert isinstance(only, torch.optim.AdamW)


def test_states_that_do_not_fit_are_refused():
    net = nn.Linear(20, 20)
    optimisers = build_optimisers(OptimiserConfig(name="muon"), net)
    net(torch.ones(1, 20)).sum().backward()
    for each in optimisers:
        each.step()
    tensors = optimiser_tensors(optimisers)
    assert set(tensors) == {"0.momentum", "1.step", "1.exp_avg", "1.exp_avg_sq"}
    with pytest.raises(KeyError):
        load_optimisers(optimisers, {"2.momentum": torch.zeros(20)})
    with pytest.raises(ValueError, match=r"1\.exp_avg .*\(3,\)"):
        load_optimisers(optimisers, {"1.exp_avg": torch.zeros(3)})
