"""Optimisers by name: Adam and AdamW, and Muon for the matrices of a network.

A step is skipped on the device where an optimiser's `found_inf` is 1, torch's name for it (0 or 1,
float32 []): the parameters and all that the optimiser remembers stay as they are.

Muon (Jordan 2024, kellerjordan.github.io/posts/muon) steps along the nearest orthogonal matrix of
its momentum; convolutions count as matrices [out, in k k]. Everything that is no hidden matrix
(vectors, embeddings, the first and the last layer) is left to AdamW.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pocketddpm.config import OptimiserConfig
from pocketddpm.diffusion.prediction import multiplies_bf16

MOMENTUM = 0.95
ADAM_RMS = 0.2  # root mean square of a typical AdamW step, which Muon's is scaled to
FEWEST = 16  # rows and input channels that make a matrix: below are first and last layers
EPSILON = 1e-8  # torch's, of Adam
FUSED = ("cpu", "cuda")  # whose fused Adam heeds found_inf; that of MPS does not
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def build_optimisers(
    config: OptimiserConfig, network: nn.Module
) -> tuple[torch.optim.Optimizer, ...]:
    """Return one optimiser, or Muon and the AdamW beside it; all take the same learning rate."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    hidden = hidden_matrices(network) if config.name == "muon" else []
    chosen = {id(p) for p in hidden}
    rest = [p for p in parameters if id(p) not in chosen]
    decay = 0.0 if config.name == "adam" else config.weight_decay
    if parameters[0].device.type in FUSED:
        kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
        adam = kind(rest, lr=config.lr, betas=config.betas, weight_decay=decay, fused=True)
    else:
        adam = PlainAdamW(rest, lr=config.lr, betas=config.betas, weight_decay=decay)
    if not hidden:
        return (adam,)
    return Muon(hidden, lr=config.lr, weight_decay=config.weight_decay), adam


def hidden_matrices(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights that Muon is for: of linear and convolution layers inside the network."""
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    weights: list[Any] = [m.weight for m in network.modules() if isinstance(m, layers)]
    return [p for p in weights if p.requires_grad and min(p.shape[:2]) >= FEWEST]


def optimiser_tensors(optimisers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return what the optimisers remember, as 'NUMBER.NAME', parameters numbered throughout."""
    numbered = enumerate(p for each in optimisers for g in each.param_groups for p in g["params"])
    states = {p: state for each in optimisers for p, state in each.state.items()}
    return {f"{i}.{k}": v for i, p in numbered for k, v in states.get(p, {}).items()}


def load_optimisers(
    optimisers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """Give the optimisers back what `optimiser_tensors` returned; KeyError if it does not fit."""
    owners = [(each, p) for each in optimisers for g in each.param_groups for p in g["params"]]
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        if int(number) >= len(owners):
            raise KeyError(name)
        optimiser, p = owners[int(number)]
        if tensor.ndim and tensor.shape != p.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {tuple(p.shape)}")
        # Fused optimisers walk raw memory: moments must lie as their weights do.
        like = torch.empty_like(p, requires_grad=False)
        optimiser.state[p][key] = like.copy_(tensor) if tensor.ndim else tensor.to(p.device)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, with Nesterov's look ahead.

    A step is lr * 0.2 * sqrt(max(rows, columns)) times an orthogonal matrix, so that its root mean
    square is that of AdamW's and both take one learning rate (arXiv 2502.16982, eq. 4).
    torch.optim.Muon takes matrices only; on those this one agrees with it, which a test checks.
    """

    def __init__(self, parameters: list[nn.Parameter], *, lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; parameters without a gradient stay."""
        taken = _taken(self)
        for group in self.param_groups:
            kept = torch.where(taken, 1 - group["lr"] * group["weight_decay"], 1.0)
            alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state[p]
                    if not state:
                        state["momentum"] = torch.zeros_like(p)
                    grad = torch.where(taken, p.grad, state["momentum"])
                    state["momentum"].lerp_(grad, 1 - MOMENTUM)
                    ahead = grad.lerp(state["momentum"], MOMENTUM).flatten(1)
                    alike.setdefault((ahead.shape[0], ahead.shape[1]), []).append((p, ahead))
            for (rows, columns), pairs in alike.items():
                size = group["lr"] * ADAM_RMS * max(rows, columns) ** 0.5
                steps = orthogonalised(torch.stack([ahead for _, ahead in pairs]))
                for (p, _), update in zip(pairs, steps, strict=True):
                    p.mul_(kept)
                    update = torch.where(taken, update, 0)
                    p.sub_(update.view(p.shape).to(p.dtype), alpha=size)


class PlainAdamW(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101, algorithm 2) in tensor operations, for devices not in `FUSED`.

    It remembers what torch's remembers, under the same names. torch's own unfused AdamW cannot skip
    a step on the device.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; parameters without a gradient stay."""
        taken = _taken(self)
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros((), device=p.device)
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                step, mean, square = state["step"], state["exp_avg"], state["exp_avg_sq"]
                step += taken
                mean.lerp_(torch.where(taken, p.grad, mean), 1 - beta1)
                square.lerp_(torch.where(taken, p.grad.square(), square), 1 - beta2)
                size = group["lr"] / (1 - beta1**step)
                update = size * mean / ((square / (1 - beta2**step)).sqrt() + EPSILON)
                p.mul_(torch.where(taken, 1 - group["lr"] * group["weight_decay"], 1.0))
                p.sub_(torch.where(taken, update, 0))


def _taken(optimiser: torch.optim.Optimizer) -> Tensor:
    """Return whether the next step is taken, bool []."""
    found_inf = getattr(optimiser, "found_inf", None)
    if found_inf is None:
        device = optimiser.param_groups[0]["params"][0].device
        return torch.ones((), dtype=torch.bool, device=device)
    return found_inf == 0


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return nearly U V^T of each matrix U S V^T, [N,rows,columns]; singular values in 0.7..1.2.

    Five Newton-Schulz steps with the coefficients that rise fastest at 0: in bfloat16 where the
    device multiplies it, else in float32, for a CPU that emulates it took 20 times as long.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if multiplies_bf16(matrices.device) else matrices.float()
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT
