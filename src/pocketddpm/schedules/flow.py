"""The straight path of flow matching and rectified flow (arXiv 2210.02747, 2209.03003).

Flow matching mixes z_u = (1 - u) x0 + u eps with u = t / T. Divided by r = sqrt((1 - u)^2 + u^2) it
is x_t of an ordinary schedule, so everything of this package works on it unchanged. When to use: to
compare with flow matching.

- alpha_bar[T] = 0: x_T is pure noise (zero terminal SNR). Predict v, x0 or edm; eps is refused.
- Its velocity is eps - x0 = (b - a) x_t + (a + b) v, with a = (1 - u) / r and b = u / r. From v
  follows the velocity, whose squared error is 1 / r^2 = 1 .. 2 times that of v.
- One Euler step of its ODE, z_s = z_t + (s - t) / T (eps - x0), is the sampler `ddim`.
- `--shift k` divides the SNR by k^2, which takes u to k u / (1 + (k - 1) u).
"""

import torch
from torch import Tensor

from pocketddpm.values import NoOptions as Config


def build(config: Config, T: int) -> Tensor:
    """Return alpha_bar = (1 - u)^2 / ((1 - u)^2 + u^2), float64 [T+1]."""
    u = torch.arange(T + 1, dtype=torch.float64) / T
    return (1 - u).square() / ((1 - u).square() + u.square())
