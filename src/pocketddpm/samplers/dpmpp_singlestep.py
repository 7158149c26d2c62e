"""DPM-Solver++(2S): order 2 with no memory, over pairs of steps (arXiv 2211.01095, algorithm 1).

When to use: to compare with published results of 2S.
"""

from math import isfinite

import torch
from torch import Tensor

from pocketddpm.diffusion.denoiser import Denoise
from pocketddpm.diffusion.grid import Grid
from pocketddpm.diffusion.sampling import Noise, State, States
from pocketddpm.samplers import _multistep as ms
from pocketddpm.values import NoOptions as Config

STOCHASTIC = False


def order(config: Config) -> int:
    """Return the order of convergence."""
    return 2


@torch.no_grad()
def sample(denoise: Denoise, x: Tensor, grid: Grid, noise: Noise, config: Config) -> States:
    """Take one step of order 2 over each two intervals r -> t -> s of the grid.

        x_s = b_s / b_r x_r + (a_s - a_r b_s / b_r) D,  D = x0_r + (x0_t - x0_r) / (2 share)

    with share = (lambda_t - lambda_r) / (lambda_s - lambda_r). The network is called at times of
    the grid only: the first interval is a DDIM step, then the whole is done anew from its start. A
    pair that touches pure noise or the clean image, where lambda is infinite, and an odd last
    interval are DDIM steps.
    """
    start, first, ab_start = x, x, 0.0  # of the current pair
    for i, t, ab_t, s, ab_s in grid:
        x0 = denoise(x, t, ab_t).x0
        begin, end = ms.half_log_snr(ab_start), ms.half_log_snr(ab_s)
        if i % 2 == 1 and isfinite(end - begin):
            r = (ms.half_log_snr(ab_t) - begin) / (end - begin)
            middle = first + (x0 - first) / (2 * r)  # the line through both, at r = 1/2
            x = ms.step_with_x0(start, middle, ab_start, ab_s)
        else:
            start, first, ab_start = x, x0, ab_t
            x = ms.step_with_x0(x, x0, ab_t, ab_s)
        yield State(i + 1, s, x, x0, i + 1)
