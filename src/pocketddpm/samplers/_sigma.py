"""What the samplers in sigma space share: x / a, with noise level sigma = b / a (arXiv 2206.00364).

There the probability flow is d(x / a) / d sigma = eps_hat.
"""

from pocketddpm.diffusion.grid import Grid
from pocketddpm.errors import ConfigError


def sigma_of(alpha_bar: float) -> float:
    """Return sigma = sqrt((1 - alpha_bar) / alpha_bar)."""
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def alpha_bar_of(sigma: float) -> float:
    """Return alpha_bar = 1 / (1 + sigma^2)."""
    return 1 / (1 + sigma**2)


def sigmas(grid: Grid) -> list[float]:
    """Return sigma at every time of the grid; ConfigError where it would be infinite."""
    if grid.alpha_bar[0] == 0:
        raise ConfigError(
            f"sigma is infinite at t = {grid.t[0]:g}, where alpha_bar is 0 (zero terminal SNR); "
            "use the sampler ddim or dpmpp, or a grid that starts lower"
        )
    return [sigma_of(alpha_bar) for alpha_bar in grid.alpha_bar]
