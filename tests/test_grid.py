"""The times that samplers visit: every spacing, explicit lists, and the way back from alpha_bar."""

from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from pocketddpm.build import build_schedule
from pocketddpm.catalog import SCHEDULES
from pocketddpm.config import ScheduleConfig
from pocketddpm.diffusion.grid import EVEN_IN_NOISE, SPACINGS, Grid, explicit_grid, make_grid
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.errors import ConfigError

LINEAR = build_schedule(ScheduleConfig("linear"))
ZERO = build_schedule(ScheduleConfig("linear", zero_terminal=True))
NAMED = [build_schedule(ScheduleConfig(name)) for name in SCHEDULES.names()]


# Named spacings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("schedule", NAMED, ids=SCHEDULES.names())
def test_every_spacing(schedule, spacing):
    """N steps, strictly down in t and up in alpha_bar, from within the table to the clean image."""
    T = schedule.T
    if schedule.zero_terminal and spacing in EVEN_IN_NOISE:
        pytest.skip("even in log-SNR, which is infinite: refused, see below")
    for steps in (1, 2, 3, 7, 10, 50, 333, T - 1, T):
        grid = make_grid(schedule, steps, spacing)
        assert grid.steps == steps == len(grid.t) - 1
        assert all(a > b for a, b in pairwise(grid.t))
        assert all(a < b for a, b in pairwise(grid.alpha_bar))
        assert (grid.t[-1], grid.alpha_bar[-1]) == (0.0, 1.0)
        assert grid.t[-2] >= 1 - 1e-9 and grid.t[0] <= T
        # Each alpha_bar lies where the table has it for its t.
        low = torch.tensor(grid.t).ceil().long().clamp(max=T)
        high = torch.tensor(grid.t).floor().long()
        bars = torch.tensor(grid.alpha_bar, dtype=torch.float64)
        assert (bars >= schedule.alpha_bar[low] * (1 - 1e-9)).all()
        assert (bars <= schedule.alpha_bar[high] * (1 + 1e-9)).all()


@pytest.mark.parametrize("spacing", SPACINGS)
def test_all_steps_visit_every_time(spacing):
    """N = T leaves no choice to the spacings of whole times."""
    grid = make_grid(LINEAR, 1000, spacing)
    if spacing in ("trailing", "leading", "linspace"):
        assert_close(list(grid.t), [float(t) for t in range(1000, -1, -1)], rtol=0, atol=1e-9)
    assert grid.t[0] == pytest.approx(1000)


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 50, 300])
def test_formulas(steps):
    """Each name's own rule, at T = 1000."""
    i = range(steps)
    trailing = make_grid(LINEAR, steps, "trailing").t
    assert trailing == (*(float(round(1000 - k * 1000 / steps)) for k in i), 0.0)
    assert trailing[0] == 1000
    leading = make_grid(LINEAR, steps, "leading").t
    assert leading == (*(float(1 + k * (1000 // steps)) for k in reversed(i)), 0.0)
    even = make_grid(LINEAR, steps, "linspace").t
    assert even[0] == 1000 and even[-2:] == ((1.0, 0.0) if steps > 1 else (1000.0, 0.0))
    gaps = [a - b for a, b in pairwise(even[:-1])]
    assert_close(gaps, [999 / (steps - 1)] * (steps - 1) if steps > 1 else [], rtol=1e-9, atol=0)
    quadratic = make_grid(LINEAR, steps, "quadratic").t
    for k, t in zip(range(steps, 0, -1), quadratic, strict=False):
        # Squares that fall below the numbers 1, 2, .. would be one time twice.
        assert abs(t - max(1000 * (k / steps) ** 2, k)) <= 0.5


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_is_even_in_a_root_of_sigma(rho):
    """sigma_i = (max^(1/rho) + i/(N-1) (min^(1/rho) - max^(1/rho)))^rho, then the clean image."""
    grid = make_grid(LINEAR, 12, "karras", rho=rho)
    bars = torch.tensor(grid.alpha_bar[:-1], dtype=torch.float64)
    root = ((1 - bars) / bars).sqrt() ** (1 / rho)
    assert_close(root.diff(), root.diff().mean().expand(11), rtol=1e-9, atol=1e-12)
    assert_close(root[[0, -1]] ** rho, LINEAR.sigma[[1000, 1]], rtol=1e-9, atol=0)


def test_log_snr_is_even_in_log_snr():
    grid = make_grid(LINEAR, 12, "log-snr")
    log_snr = torch.logit(torch.tensor(grid.alpha_bar[:-1], dtype=torch.float64))
    assert_close(log_snr.diff(), log_snr.diff().mean().expand(11), rtol=1e-9, atol=0)
    assert_close(log_snr[[0, -1]], LINEAR.log_snr[[1000, 1]], rtol=1e-9, atol=0)


def test_edm_sigmas():
    """The published 18 levels between sigma = 80 and 0.002 (arXiv 2206.00364)."""
    sigma = torch.cat([torch.zeros(1), torch.linspace(0.002, 80, 18)]).double()
    grid = make_grid(Schedule(1 / (1 + sigma.square())), 18, "karras")
    levels = [((1 - ab) / ab) ** 0.5 for ab in grid.alpha_bar[:-1]]
    assert levels[:3] == pytest.approx([80, 57.585985, 40.785574], rel=1e-6)
    assert levels[-2:] == pytest.approx([0.007528, 0.002], rel=1e-4)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_starting_lower(spacing):
    """t_start takes the place of T, for editing from an intermediate time."""
    grid = make_grid(LINEAR, 10, spacing, t_start=400)
    assert grid.t[0] <= 400 + 1e-9 and grid.t[-1] == 0
    if spacing != "leading":
        assert grid.t[0] == pytest.approx(400)
        assert grid.alpha_bar[0] == pytest.approx(float(LINEAR.alpha_bar[400]), rel=1e-9)


@pytest.mark.parametrize("spacing", [s for s in SPACINGS if s not in EVEN_IN_NOISE])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_zero_terminal_snr(spacing, steps):
    """Pure noise is an ordinary start for the spacings in t."""
    grid = make_grid(ZERO, steps, spacing)
    assert grid.alpha_bar[0] == (0 if grid.t[0] == 1000 else ZERO.alpha_bar[int(grid.t[0])])
    assert all(a < b for a, b in pairwise(grid.alpha_bar))


def test_jumps_leave_the_last_estimate_at_sigma_1():
    """Even in log sigma from T's down to 1; from below 2, down to half of the start."""

    def levels(grid):
        return [((1 - ab) / ab) ** 0.5 for ab in grid.alpha_bar[:-1]]

    wide = build_schedule(ScheduleConfig("log-linear"))
    assert levels(make_grid(wide, 1, "jumps")) == pytest.approx([80])
    assert levels(make_grid(wide, 3, "jumps")) == pytest.approx([80, 80**0.5, 1], rel=1e-6)
    t = int((wide.sigma < 0.5).nonzero()[-1])
    low = levels(make_grid(wide, 2, "jumps", t_start=t))
    assert low[1] == pytest.approx(low[0] / 2, rel=1e-6)


# Errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_outside_the_schedule(spacing, steps):
    with pytest.raises(ConfigError, match=rf"steps .*1\.\.1000 .* {steps}$"):
        make_grid(LINEAR, steps, spacing)


def test_steps_beyond_a_lower_start():
    with pytest.raises(ConfigError, match=r"1\.\.20 .*t = 20.* 21$"):
        make_grid(LINEAR, 21, t_start=20)


@pytest.mark.parametrize("t_start", [0, 1001])
def test_start_outside_the_schedule(t_start):
    with pytest.raises(ConfigError, match=rf"t_start .*1\.\.1000.* {t_start}$"):
        make_grid(LINEAR, 1, t_start=t_start)


def test_unknown_spacing_names_the_nearest():
    with pytest.raises(ConfigError, match=r"spacing 'trialing'.* trailing"):
        make_grid(LINEAR, 10, "trialing")


@pytest.mark.parametrize("spacing", ["karras", "log-snr"])
def test_infinite_log_snr_is_refused(spacing):
    with pytest.raises(ConfigError, match=rf"{spacing}.*t = 1000.* 0 .*trailing"):
        make_grid(ZERO, 10, spacing)


@pytest.mark.parametrize(
    ("t", "alpha_bar", "message"),
    [
        ((1.0,), (0.5,), "two pairs.* 1 .* 1 "),
        ((2.0, 1.0), (0.5,), "2 times .* 1 values"),
        ((1.0, 2.0), (0.1, 0.5), r"\[1.0, 2.0\]"),
        ((2.0, 2.0), (0.1, 0.5), r"\[2.0, 2.0\]"),
        ((2.0, 1.0), (0.5, 0.1), r"alpha_bar .*\[0.5, 0.1\]"),
        ((2.0, 1.0), (0.5, 0.5), r"alpha_bar .*\[0.5, 0.5\]"),
        ((2.0, 1.0), (-0.1, 0.5), r"alpha_bar .*\[-0.1, 0.5\]"),
        ((2.0, 1.0), (0.1, 1.5), r"alpha_bar .*\[0.1, 1.5\]"),
        ((2.0, 1.0), (float("nan"), 0.5), r"alpha_bar .*\[nan, 0.5\]"),
    ],
)
def test_wrong_pairs_are_refused(t, alpha_bar, message):
    with pytest.raises(ConfigError, match=message):
        Grid(t, alpha_bar)


# Explicit lists ----------------------------------------------------------------------------------


def test_explicit_times_take_the_table_s_alpha_bar():
    grid = explicit_grid(LINEAR, [1000, 500, 20])
    assert grid.t == (1000.0, 500.0, 20.0)
    assert grid.alpha_bar == tuple(float(LINEAR.alpha_bar[t]) for t in (1000, 500, 20))
    assert grid.steps == 2


def test_explicit_times_between_entries():
    """Linear in log-SNR; below t = 1, and above the last positive entry, in alpha_bar."""
    log_snr = LINEAR.log_snr[[500, 501]]
    middle = explicit_grid(LINEAR, [500.25, 0]).alpha_bar[0]
    expected = torch.sigmoid(log_snr[0] + 0.25 * (log_snr[1] - log_snr[0]))
    assert middle == pytest.approx(float(expected), rel=1e-12)
    low = explicit_grid(LINEAR, [0.5, 0]).alpha_bar[0]
    assert low == pytest.approx((1 + float(LINEAR.alpha_bar[1])) / 2, rel=1e-12)
    top = explicit_grid(ZERO, [999.5, 0]).alpha_bar[0]
    assert top == pytest.approx(float(ZERO.alpha_bar[999]) / 2, rel=1e-12)


@pytest.mark.parametrize("times", [[1001, 0], [10, -1]])
def test_explicit_times_outside_the_schedule(times):
    outside = next(t for t in times if not 0 <= t <= 1000)
    with pytest.raises(ConfigError, match=rf"0\.\.1000.* \[{outside}\]"):
        explicit_grid(LINEAR, times)


def test_explicit_times_must_fall():
    with pytest.raises(ConfigError, match=r"\[10.*20.*0.*\]"):
        explicit_grid(LINEAR, [10, 20, 0])


def test_steps_and_reversal():
    grid = explicit_grid(LINEAR, [30, 20, 0])
    bars = grid.alpha_bar
    assert list(grid) == [
        (0, 30.0, bars[0], 20.0, bars[1]),
        (1, 20.0, bars[1], 0.0, bars[2]),
    ]


# From alpha_bar back to t ------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", NAMED, ids=SCHEDULES.names())
def test_time_of_is_the_inverse(schedule):
    """At the table's entries exactly, and between them for explicit times."""
    times = torch.arange(1, schedule.T + 1, dtype=torch.float64)
    finite = torch.isfinite(schedule.log_snr[1:])
    assert_close(schedule.time_of(schedule.log_snr[1:])[finite], times[finite], rtol=0, atol=1e-6)
    between = [900.25, 512.5, 77.7, 3.125, 1.0]
    grid = explicit_grid(schedule, between)
    back = [grid.time_of(alpha_bar) for alpha_bar in grid.alpha_bar]
    assert back == pytest.approx(between, abs=1e-6)


def test_time_of_a_grid_without_a_schedule():
    """Linear in log-SNR between its pairs, and held at the outermost of them."""
    grid = Grid((30.0, 10.0, 2.0, 0.0), (0.0, 0.2, 0.8, 1.0))
    assert grid.time_of(0.2) == pytest.approx(10)
    assert grid.time_of(0.5) == pytest.approx(6)  # half-way between logit(0.2) and logit(0.8)
    assert grid.time_of(1e-9) == pytest.approx(10)
    assert grid.time_of(0.999) == pytest.approx(2)
    assert explicit_grid(LINEAR, [900, 0]).time_of(float(LINEAR.alpha_bar[450])) == pytest.approx(
        450
    )
