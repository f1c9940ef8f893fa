"""Claims about the capacity model of docs/scaling.md: its queue, its figures, its page."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import queueing, scaling
from benchmarks.queueing import Burst, Service, closed, most_utilisation, p99_s, waits
from benchmarks.scaling import BY_DEFAULT, DRIFT_POLL_S, LOADED, RATES, Assumed, Fleet, Worker
from benchmarks.scaling_inputs import MEASURED, PUBLISHED

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGE = (DOCS / "scaling.md").read_text(encoding="utf-8")
SAME = Service(mean_s=0.02, p99_of_median=1.0)


def words(text: str) -> str:
    """Without line breaks and runs of spaces."""
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("table", scaling.tables(BY_DEFAULT).items(), ids=lambda each: each[0])
def test_the_page_holds_what_the_command_prints(table: tuple[str, str]) -> None:
    assert table[1] in PAGE


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_each_figure_is_in_the_words_of_the_page_it_names(name: str) -> None:
    each = MEASURED[name]
    assert words(each.words) in words((DOCS / each.page).read_text(encoding="utf-8"))
    spoken = {f"{each.value:g}", f"{each.value:.2f}", f"{each.value:,g}"}
    quotient = "a step's 660" in each.words
    assert quotient or any(value in each.words for value in spoken)


def test_what_was_not_measured_here_is_published_somewhere() -> None:
    assert all(each.page.startswith("https://") for each in PUBLISHED.values())


@pytest.mark.parametrize("stretch", LOADED)
def test_the_stretches_are_those_of_the_benchmarks_page(stretch: scaling.Loaded) -> None:
    row = f"| {stretch.clients} | {stretch.per_s} | {stretch.median_ms:g} ms | {stretch.p99_ms:g} ms |"
    assert row in (DOCS / "benchmarks.md").read_text(encoding="utf-8")


def test_drift_is_polled_as_the_service_does() -> None:
    service = (ROOT / "adaptsvc" / "serving" / "service.py").read_text(encoding="utf-8")
    assert f"DRIFT_POLL_S = {DRIFT_POLL_S}" in service


def test_without_variation_closed_clients_wait_for_all_before_them() -> None:
    rate, median_s, p99 = closed(SAME, 1, 1, requests=2000, seed=0)
    assert rate == pytest.approx(50)
    assert median_s == pytest.approx(0.02)
    assert p99 == pytest.approx(0.02)
    _, four_s, _ = closed(SAME, 4, 1, requests=2000, seed=0)
    assert four_s == pytest.approx(0.08)


def test_a_queue_of_equal_times_waits_as_pollaczek_and_khinchin_say() -> None:
    rng = np.random.default_rng(0)
    arrivals = np.cumsum(rng.exponential(0.02 / 0.5, 400_000))
    found = waits(arrivals, np.full(400_000, 0.02)).mean()
    assert found == pytest.approx(0.5 / (2 * 0.5) * 0.02, rel=0.03)


def test_times_have_the_mean_and_the_spread_that_were_asked_for() -> None:
    times = Service(0.02, 2.3).draw(400_000, np.random.default_rng(0))
    assert times.mean() == pytest.approx(0.02, rel=0.01)
    median, p99 = np.quantile(times, [0.5, 0.99])
    assert p99 / median == pytest.approx(2.3, rel=0.02)


def test_bursts_keep_the_mean_rate_and_make_the_slowest_wait_longer() -> None:
    burst = Burst(2.0, 10.0, 60.0)
    even = np.arange(0.0, 600.0)
    assert burst.stretch(even)[-1] == pytest.approx(599, abs=1)
    slow = [p99_s(SAME, 0.6, each, requests=50_000, seed=0) for each in (None, burst)]
    assert slow[1] > 2 * slow[0]


def test_the_highest_utilisation_keeps_the_limit_and_the_next_does_not() -> None:
    busy = most_utilisation(SAME, 0.1, None, requests=50_000, seed=0)
    below, above = (
        p99_s(SAME, each, None, requests=50_000, seed=0) for each in (busy, busy + 0.01)
    )
    assert below <= 0.1 < above


def test_ten_times_the_images_need_ten_times_the_replicas() -> None:
    counts = [Fleet(rate, 0.4, BY_DEFAULT).replicas for rate in RATES]
    assert counts == sorted(counts)
    assert counts[3] == pytest.approx(10 * counts[2], rel=0.01)


def test_a_faster_link_spreads_a_version_faster() -> None:
    slow, fast = (Fleet(10_000, 0.4, Assumed(link_gbit=gbit)) for gbit in (10, 40))
    assert slow.fan_out_s(100) == pytest.approx(4 * fast.fan_out_s(100))


def test_one_rank_learns_as_fast_as_the_demo_and_many_no_faster_than_the_first_allows() -> None:
    assert Worker(1).cycle_s == pytest.approx(48)
    assert Worker(1000).cycle_s > Worker(1).rest_s
    assert Worker(2).images_per_s > Worker(1).images_per_s


@pytest.mark.parametrize("module", [queueing, scaling])
def test_the_examples_hold(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted
    assert found.failed == 0
