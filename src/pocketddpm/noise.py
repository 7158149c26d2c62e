"""All randomness of pocketddpm: a function of (seed, role, index, step), never of history.

Numbers come from the counter-based generator Philox4x32-10 (Salmon et al. 2011), written in tensor
operations: image k gets the same noise whatever the batch size, the number of processes, the device
or what was drawn before, and a resumed run needs no saved generator. Its published known answers
are in the tests.
"""

from enum import IntEnum
from math import pi, prod

import torch
from torch import Tensor

from pocketddpm.errors import ConfigError

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


class Role(IntEnum):
    """What a draw is for; draws of different roles are independent."""

    START = 0  # x_T of a sample
    STEP = 1  # the noise of a sampler's step
    TRAIN_EPS = 2
    TRAIN_TIME = 3
    LABEL_DROPOUT = 4
    SAMPLE_LABELS = 5
    EDIT = 6
    EVALUATE = 7
    FLIP = 8
    BOUND = 9  # times and noise of the variational bound
    FLOW = 10  # dequantisation and probe of the probability flow's likelihood
    SELECT = 11  # which images are kept in a subset, or held out
    AUGMENT = 12  # how training images are changed
    MEASURE = 13  # the noise of a measurement, and what is random in its operator


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Return the four 32-bit outputs of Philox4x32-10, as int64 tensors in 0..2^32-1.

    counter: four int64 tensors of one shape, each in 0..2^32-1. key: two integers likewise.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2^64 and so keep the bits of the unsigned product.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


def _bits(seed: int, role: Role, index: Tensor, step: int, count: int) -> Tensor:
    """Return int64 [B, count] of 32-bit words; `count` is rounded up to a multiple of 4."""
    if not -(2**63) <= seed < 2**64:
        raise ConfigError(f"a seed has 64 bits, from -2^63 to 2^64 - 1; got {seed}")
    blocks = -(-count // 4)
    block = torch.arange(blocks, device=index.device)[None, :].expand(len(index), blocks)
    low = (index & _MASK)[:, None].expand_as(block)
    # The index may need more than 32 bits in a long training run: its high word joins the role.
    high = ((index >> 32) << 8 | int(role))[:, None].expand_as(block)
    words = philox(
        (block, low, torch.full_like(block, step & _MASK), high & _MASK),
        (seed & _MASK, (seed >> 32) & _MASK),
    )
    return torch.stack(words, dim=-1).reshape(len(index), 4 * blocks)


def uniform(
    seed: int, role: Role, index: Tensor, step: int = 0, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return one number per index, int64 [B], uniform in (0, 1), as [B] on its device.

    In float64 0 and 1 are never reached; float32 rounds the largest 2^7 of 2^32 numbers up to 1.
    ConfigError for another dtype, and for a seed of more than 64 bits.
    """
    bits = _bits(seed, role, index, step, 1)[:, 0]
    return (bits.to(_wide(dtype)) + 0.5) * 2.0**-32


def normal(
    seed: int,
    role: Role,
    index: Tensor,
    shape: tuple[int, ...],
    step: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return standard normal noise [B, *shape] on the device of index, int64 [B].

    Row k depends on (seed, role, index[k], step) alone. Box-Muller on 32-bit uniforms: the tail
    ends at 6.7 standard deviations. dtype: float32 or float64; ConfigError for another, and
    for a seed of more than 64 bits.
    """
    count = prod(shape)
    bits = _bits(seed, role, index, step, count).to(_wide(dtype))
    half = bits.shape[1] // 2
    # float32 rounds the largest words up to 1 exactly, whose logarithm is a harmless 0.
    radius = ((bits[:, :half] + 0.5) * 2.0**-32).log().mul_(-2).sqrt_()
    angle = (bits[:, half:] * (2 * pi * 2.0**-32)).to(dtype)
    both = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return both[:, :count].reshape(len(index), *shape)


def send(values: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor of the CPU on a device, as `dtype`, without waiting for what runs there.

    It is converted first: a device may have no float64.
    """
    # MPS would read the memory later, when it may be gone.
    return values.to(dtype or values.dtype).to(device, non_blocking=device.type == "cuda")


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype; ConfigError unless it is float32 or float64, which hold 32-bit numbers."""
    if dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"noise is drawn in float32 or float64, got {dtype}; convert it after")
    return dtype
