"""Import from improved-diffusion: its network, written again by tensor names, as the truth."""

import math
import re

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from pocketddpm.commands.main import main
from pocketddpm.convert.from_improved import Flags, read_improved
from pocketddpm.convert.imported import as_checkpoint
from pocketddpm.errors import CheckpointError
from pocketddpm.models.model import load_model, model_from

W, MULTIPLES, BLOCKS, ATTENDS, HEADS = 32, (1, 2, 2), 2, (1, 2), 4


def weights(channels=3, out=3, classes=0, scale_shift=True) -> dict[str, Tensor]:
    """Return a state dict with the names and shapes of improved-diffusion's UNetModel."""
    g = torch.Generator().manual_seed(0)
    kept: dict[str, Tensor] = {}

    def linear(name, c_out, *c_in):
        kept[f"{name}.weight"] = torch.randn(c_out, *c_in, generator=g) * math.prod(c_in) ** -0.5
        kept[f"{name}.bias"] = torch.randn(c_out, generator=g) * 0.1

    def norm(name, c):
        kept[f"{name}.weight"] = 1 + 0.2 * torch.randn(c, generator=g)
        kept[f"{name}.bias"] = 0.2 * torch.randn(c, generator=g)

    def residual(name, c_in, c_out):
        norm(f"{name}.in_layers.0", c_in)
        linear(f"{name}.in_layers.2", c_out, c_in, 3, 3)
        linear(f"{name}.emb_layers.1", c_out * (2 if scale_shift else 1), 4 * W)
        norm(f"{name}.out_layers.0", c_out)
        linear(f"{name}.out_layers.3", c_out, c_out, 3, 3)
        if c_in != c_out:
            linear(f"{name}.skip_connection", c_out, c_in, 1, 1)

    def attention(name, c):
        norm(f"{name}.norm", c)
        linear(f"{name}.qkv", 3 * c, c, 1)
        linear(f"{name}.proj_out", c, c, 1)

    linear("time_embed.0", 4 * W, W)
    linear("time_embed.2", 4 * W, 4 * W)
    if classes:
        kept["label_emb.weight"] = torch.randn(classes, 4 * W, generator=g)
    linear("input_blocks.0.0", W, channels, 3, 3)
    c, at, widths = W, 1, [W]
    for level, multiple in enumerate(MULTIPLES):
        for _ in range(BLOCKS):
            residual(f"input_blocks.{at}.0", c, multiple * W)
            c = multiple * W
            if level in ATTENDS:
                attention(f"input_blocks.{at}.1", c)
            at += 1
            widths.append(c)
        if level < len(MULTIPLES) - 1:
            linear(f"input_blocks.{at}.0.op", c, c, 3, 3)
            at += 1
            widths.append(c)
    residual("middle_block.0", c, c)
    attention("middle_block.1", c)
    residual("middle_block.2", c, c)
    at = 0
    for level, multiple in reversed(list(enumerate(MULTIPLES))):
        for j in range(BLOCKS + 1):
            residual(f"output_blocks.{at}.0", c + widths.pop(), multiple * W)
            c, last = multiple * W, 1
            if level in ATTENDS:
                attention(f"output_blocks.{at}.1", c)
                last = 2
            if level and j == BLOCKS:
                linear(f"output_blocks.{at}.{last}.conv", c, c, 3, 3)
            at += 1
    norm("out.0", c)
    linear("out.2", out, c, 3, 3)
    return kept


def theirs(p: dict[str, Tensor], x: Tensor, times: Tensor, y: Tensor | None) -> Tensor:
    """Return the network's answer, by tensor names; times are 0..T-1, already rescaled."""

    def apply(function, name, x, **settings):
        return function(x, p[f"{name}.weight"], p[f"{name}.bias"], **settings)

    def norm(name, x):
        return F.group_norm(x, 32, p[f"{name}.weight"], p[f"{name}.bias"])

    def residual(name, x):
        h = apply(
            F.conv2d, f"{name}.in_layers.2", F.silu(norm(f"{name}.in_layers.0", x)), padding=1
        )
        told = apply(F.linear, f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        if told.shape[1] == 2 * h.shape[1]:
            scale, shift = told.chunk(2, 1)
            h = norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = norm(f"{name}.out_layers.0", h + told)
        h = apply(F.conv2d, f"{name}.out_layers.3", F.silu(h), padding=1)
        if f"{name}.skip_connection.weight" in p:
            x = apply(F.conv2d, f"{name}.skip_connection", x)
        return x + h

    def attention(name, x):
        b, c, height, width = x.shape
        qkv = apply(F.conv1d, f"{name}.qkv", norm(f"{name}.norm", x.flatten(2)))
        mixed = []
        for head in qkv.chunk(HEADS, 1):  # every head's q, k and v lie together
            q, k, v = head.chunk(3, 1)
            weight = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), -1)
            mixed.append(v @ weight.transpose(1, 2))
        out = apply(F.conv1d, f"{name}.proj_out", torch.cat(mixed, 1))
        return x + out.view(b, c, height, width)

    def stage(name, x):
        for part in range(3):
            where = f"{name}.{part}"
            if f"{where}.in_layers.0.weight" in p:
                x = residual(where, x)
            elif f"{where}.qkv.weight" in p:
                x = attention(where, x)
            elif f"{where}.op.weight" in p:
                x = apply(F.conv2d, f"{where}.op", x, stride=2, padding=1)
            elif f"{where}.conv.weight" in p:
                x = apply(F.conv2d, f"{where}.conv", F.interpolate(x, scale_factor=2), padding=1)
        return x

    angles = times[:, None] * torch.exp(-math.log(10000) * torch.arange(W // 2) / (W // 2))
    emb = apply(F.linear, "time_embed.0", torch.cat([angles.cos(), angles.sin()], 1))
    emb = apply(F.linear, "time_embed.2", F.silu(emb))
    if y is not None:
        emb = emb + p["label_emb.weight"][y]
    x = apply(F.conv2d, "input_blocks.0.0", x, padding=1)
    skips = [x]
    count = {int(m[1]) for k in p if (m := re.match(r"input_blocks\.(\d+)", k))}
    for k in range(1, max(count) + 1):
        x = stage(f"input_blocks.{k}", x)
        skips.append(x)
    x = stage("middle_block", x)
    for k in range(len(skips)):
        x = stage(f"output_blocks.{k}", torch.cat([x, skips.pop()], 1))
    return apply(F.conv2d, "out.2", F.silu(norm("out.0", x)), padding=1)


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({}, "image_size=16"),
        ({"out": 6, "classes": 3}, "image_size=16,diffusion_steps=4000,noise_schedule=cosine"),
        ({"channels": 1, "out": 1, "scale_shift": False}, "image_size=16,predict_xstart=true"),
        ({}, "image_size=16,diffusion_steps=100,rescale_timesteps=false,sigma_small=true"),
    ],
    ids=["plain", "learned-cosine-labels", "added-x0", "hundred-steps"],
)
def test_the_same_outputs(tmp_path, settings, flags):
    state = weights(**settings)
    torch.save(state, tmp_path / "ema.pt")
    out = tmp_path / "run"
    main(["import", str(tmp_path / "ema.pt"), "--from", "improved-diffusion", "--flags", flags,
          "--data", "cifar10", "--out", str(out)])  # fmt: skip
    model = load_model(out)
    T = model.schedule.T
    x = torch.randn(2, model.shape[0], 16, 16, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([1.0, T / 2])
    y = torch.tensor([0, 2]) if settings.get("classes") else None
    scale = 1.0 if "rescale_timesteps=false" in flags else 1000 / T
    wanted = theirs(state, x, (t - 1) * scale, y)
    with torch.no_grad():
        got = model.network(x, t, y)
    assert got.shape == wanted.shape
    assert float(wanted.std()) > 0.1
    assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    plan, objective = model.experiment.sampling, model.experiment.objective
    assert (plan.sampler, plan.steps) == ("ddpm", T)
    learned = settings.get("out") == 6
    small = "beta-tilde" if "sigma_small" in flags else "beta"
    assert plan.options == {"variance": "learned" if learned else small}
    assert objective.prediction == ("x0" if "predict_xstart" in flags else "eps")
    assert model.schedule.alpha_bar[-1] < (1e-4 if T > 100 else 1e-3)
    labels = None if y is None else y.numpy()
    assert model.sample(2, labels=labels, steps=2).images.shape == (2, model.shape[0], 16, 16)


def test_the_number_of_heads_matters(tmp_path):
    torch.save(weights(), tmp_path / "ema.pt")
    x, t = torch.ones(1, 3, 16, 16).cumsum(3) / 16, torch.tensor([9.0])
    answers = []
    for heads in (4, 1):
        foreign = read_improved(tmp_path / "ema.pt", Flags(image_size=16, num_heads=heads))
        model = model_from(as_checkpoint(foreign), torch.device("cpu"))
        with torch.no_grad():
            answers.append(model.network(x, t))
    assert float((answers[0] - answers[1]).abs().max()) > 1e-4


def refused(capsys, path, *more) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["import", str(path), "--from", "improved-diffusion", *more, "--out", f"{path}-out"])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_what_it_is_not_is_refused(tmp_path, capsys):
    path = tmp_path / "x.pt"
    assert "no file" in refused(capsys, path)
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "cannot be read as weights" in refused(capsys, path)
    torch.save({"a": torch.zeros(1)}, path)
    assert "does not hold improved-diffusion's UNetModel" in refused(capsys, path)
    torch.save({"step": 3, **weights()}, path)
    assert "a plain state dict is expected" in refused(capsys, path)
    state = weights()
    torch.save({k: v for k, v in state.items() if ".op." not in k}, path)
    assert "input_blocks.3 is neither" in refused(capsys, path)
    torch.save({**state, "extra.0.0.weight": torch.zeros(1)}, path)
    assert "the tensor extra.0.0.weight" in refused(capsys, path)
    torch.save({k: v for k, v in state.items() if k != "out.0.bias"}, path)
    assert "not those of the U-Net" in refused(capsys, path)
    torch.save(state, path)
    assert "unknown option of flag" in refused(capsys, path, "--flags", "heads=3")
    assert "UNetModel with 5 heads" in refused(capsys, path, "--flags", "num_heads=5,image_size=16")
    assert "needs an image size that divides by 4" in refused(
        capsys, path, "--flags", "image_size=18"
    )
    with pytest.raises(CheckpointError, match="not those of the U-Net"):
        broken = {**state, "out.2.weight": torch.zeros(5, 32, 3, 3)}
        torch.save(broken, path)
        as_checkpoint(read_improved(path, Flags(image_size=16)))
