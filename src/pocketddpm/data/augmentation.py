"""Augmentation that does not leak: training images are moved, and the network is told how.

Karras et al. 2022 (arXiv 2206.00364), section 5 and appendix F.2: every kind of change is made with
one probability, and its parameters are a condition of the network, 0 for what is not done. Sampling
is at condition 0, so that the changes help to learn and are not drawn. The changes, in this order:
mirroring in x and in y, scaling, turning, stretching along some direction, shifting.

Shapes: B images of C channels and H x W pixels.
"""

from math import pi

import torch
from torch import Tensor
from torch.nn import functional as F

from pocketddpm.noise import Role, normal, send, uniform

CONDITIONS = 9
WEIGHT = "embed_augmentation.weight"  # of networks that are told
SCALE = 2**0.2  # one deviation of scaling and of stretching
SHIFT = 1 / 8  # one deviation of shifting, as a share of the image's side


def draw(probability: float, seed: int, stream_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the changes of images, by their numbers in the stream, int64 [B] on the CPU.

    probability: of each kind of change; half of the mirrorings change nothing.

    Returns: the way back, float64 [B,2,2]: a pixel at (x, y) from the middle comes from
    matrix @ ((x, y) - shift); the shift, float64 [B,2], as a share of the sides; and the condition,
    float32 [B,9]: mirrored in x and y; log of the scale; cos - 1 and sin of the turn; log of the
    stretch times cos and sin of twice its direction (half a turn more is the same stretch, and a
    quarter its inverse); shift in x and y; logs and shifts in deviations.
    """

    def chance(step: int) -> Tensor:
        return uniform(seed, Role.AUGMENT, stream_index, step)

    def made(step: int, share: float = 1.0) -> Tensor:
        return (chance(step) < share * probability).double()

    size = normal(seed, Role.AUGMENT, stream_index, (4,), dtype=torch.float64)
    mirror_x, mirror_y = made(1, 0.5), made(2, 0.5)
    scale = size[:, 0] * made(3)
    turn = (2 * chance(4) - 1) * pi * made(5)
    stretch, direction = size[:, 1] * made(6), (2 * chance(7) - 1) * pi
    shift = size[:, 2:] * made(8)[:, None]
    # The last change is undone first.
    back = _turned(-direction)
    for matrix in (
        _along_axes(SCALE**-stretch, SCALE**stretch),
        _turned(direction),
        _turned(-turn),
        _along_axes(SCALE**-scale, SCALE**-scale),
        _along_axes(1 - 2 * mirror_x, 1 - 2 * mirror_y),
    ):
        # Written out: the product of matrices may be summed in another order for another batch.
        back = (matrix[:, :, :, None] * back[:, None]).sum(2)
    condition = torch.stack(
        [
            mirror_x,
            mirror_y,
            scale,
            turn.cos() - 1,
            turn.sin(),
            stretch * (2 * direction).cos(),
            stretch * (2 * direction).sin(),
            *shift.unbind(1),
        ],
        dim=1,
    )
    return back, SHIFT * shift, condition.float()


def augmented(
    images: Tensor, probability: float, seed: int, stream_index: Tensor
) -> tuple[Tensor, Tensor]:
    """Return images, uint8 [B,C,H,W], changed, and the condition, float32 [B,9] on their device.

    Bilinear, mirrored at the edges. What is not changed keeps every byte. stream_index: int64 [B]
    on the CPU, which with the seed decides what is done. Nothing is read back from the device.
    """
    back, shift, condition = draw(probability, seed, stream_index)
    height, width = images.shape[2:]
    # Turns keep angles in pixels, and grid_sample counts from -1 to 1 along each side.
    sides = torch.tensor([width, height], dtype=torch.float64)
    back = back * (sides / sides[:, None])
    offset = -2 * (back * shift[:, None]).sum(2)
    back, offset = (
        send(values, images.device, torch.float32)[..., None, None] for values in (back, offset)
    )
    y, x = ((torch.arange(n, device=images.device) + 0.5) * (2 / n) - 1 for n in (height, width))
    grid = back[:, :, 0] * x + back[:, :, 1] * y[:, None] + offset  # [B,2,H,W]
    moved = F.grid_sample(
        images.float(), grid.permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False
    )
    changed = send((condition != 0).any(1)[:, None, None, None], images.device)
    moved = moved.round().clamp(0, 255).to(torch.uint8)
    return torch.where(changed, moved, images), send(condition, images.device)


def _turned(angle: Tensor) -> Tensor:
    """Return rotations, [B,2,2]."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _along_axes(x: Tensor, y: Tensor) -> Tensor:
    """Return scalings along the axes, [B,2,2]."""
    return torch.diag_embed(torch.stack([x, y], 1))
