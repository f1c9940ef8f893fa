"""Claims about the slope that says whether memory rises."""

from __future__ import annotations

import doctest

import numpy as np

from benchmarks import slopes
from benchmarks.slopes import interval, lines, slope

STEPS = [float(step) for step in range(40)]


def test_the_examples_hold() -> None:
    found = doctest.testmod(slopes)
    assert (found.attempted > 0, found.failed) == (True, 0)


def test_the_interval_of_noise_holds_0_and_that_of_a_rise_holds_the_rise() -> None:
    noise = np.random.default_rng(1).normal(size=len(STEPS))
    low, high = interval(STEPS, list(noise))
    assert low < 0 < high
    low, high = interval(STEPS, [2 * step + each for step, each in zip(STEPS, noise, strict=True)])
    assert low < 2 < high
    assert low > 1


def test_one_step_among_many_measurements_is_no_slope() -> None:
    assert slope(STEPS, [100.0] * 39 + [140.0]) == 0


def test_lines_name_the_slope_by_the_thousand() -> None:
    first, last, rise, sure = lines("requests", 0.5, STEPS)
    assert (first.samples, last.samples, rise.samples) == ([0.0], [39.0], [2.0])
    assert (rise.unit, list(sure.samples)) == ("MiB/1000", [2.0, 2.0])
