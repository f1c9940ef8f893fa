"""Claims about real processes that are killed, starved and misled: no acknowledged message is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import new_redis
from tests.faults import scenarios, sites
from tests.faults.case import Outcome
from tests.faults.moments import MOMENTS
from tests.faults.site import Site
from tests.faults.sites import Model, Scaled

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def model(tiny_vit_directory: Path, tiny_home: Callable[[Path], Path]) -> Model:
    return Model(tiny_vit_directory, tiny_home(tiny_vit_directory))


@pytest.fixture(scope="module")
def in_files(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[Site]:
    with sites.in_files(tmp_path_factory.mktemp("files"), model) as site:
        yield site


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[Scaled]:
    folder = tmp_path_factory.mktemp("scaled")
    redis = new_redis(tmp_path_factory.mktemp("redis"), persistent=True)
    with sites.scaled_out(folder, model, redis) as scaled:
        yield scaled
    redis.kill()


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[Site]:
    try:
        with sites.on_small_disk(tmp_path_factory.mktemp("small"), model) as site:
            yield site
    except PermissionError as exc:
        if os.environ.get("CI"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))


def check(outcome: Outcome, *, failed: int = 0) -> None:
    """Nothing is lost, nothing is left, and the service answered."""
    assert (outcome.struck.lost, outcome.ended.lost) == (0, 0), outcome
    assert outcome.ended.settled, outcome
    assert outcome.ended.learned >= 16, outcome
    assert outcome.failed <= failed, outcome
    assert outcome.requests > outcome.failed, outcome


def test_without_a_fault_every_image_is_learned_from_and_what_is_none_is_buried(
    in_files: Site,
) -> None:
    outcome = scenarios.nothing(in_files)
    check(outcome)
    assert (outcome.ended.learned, outcome.ended.dead, outcome.ended.sent) == (16, 1, 17)


@pytest.mark.parametrize("where", MOMENTS)
def test_a_worker_killed_anywhere_in_a_round_loses_nothing(in_files: Site, where: str) -> None:
    outcome = scenarios.worker_killed(in_files, where)
    check(outcome)
    if where in ("a step", "the export", "the guard", "publishing", "promoting"):
        assert outcome.struck.learned == 0, "it was killed before its version served"
    if where in ("the checkpoint", "the commit"):
        assert outcome.struck.learned == 16, "it was killed after its version served"


def test_a_cut_checkpoint_is_refused_for_the_one_before(in_files: Site) -> None:
    check(scenarios.checkpoint_cut(in_files))
    assert "was altered or cut" in in_files.said() or "cannot be read" in in_files.said()
    assert "the checkpoint before is taken" in in_files.said()


def test_without_a_checkpoint_the_stream_still_has_what_no_round_has_taken(in_files: Site) -> None:
    check(scenarios.checkpoints_gone(in_files))
    assert "no checkpoint can be read" in in_files.said()


def test_clocks_that_jump_lose_nothing_and_hold_up_nothing(in_files: Site) -> None:
    check(scenarios.clock_jumps(in_files))


def test_one_service_process_killed_leaves_the_other_answering(in_files: Site) -> None:
    # A request that was on its way to the process that died has no answer.
    check(scenarios.service_process_killed(in_files), failed=1)


def test_a_killed_service_had_stored_every_label_that_it_acknowledged(in_files: Site) -> None:
    outcome = scenarios.service_killed(in_files)
    check(outcome, failed=outcome.requests - 1)
    assert outcome.ended.sent == 16 + 8
    assert outcome.refused == 1, "a label that nobody took was not acknowledged"


def test_a_full_disk_costs_no_message_and_no_request_and_is_over_when_there_is_room(
    small_disk: Site,
) -> None:
    outcome = scenarios.disk_full(small_disk)
    check(outcome)
    assert outcome.refused == 1, "the producer was told"
    assert "free some" in small_disk.said()
    assert "there is room again" in small_disk.said()


def test_of_two_workers_one_writes_and_the_one_that_slept_is_fenced(scaled: Scaled) -> None:
    check(scenarios.two_workers(scaled))


def test_a_killed_broker_loses_nothing_that_it_had_acknowledged(scaled: Scaled) -> None:
    outcome = scenarios.broker_killed(scaled)
    check(outcome)
    assert outcome.refused == 1, "the producer was told"


def test_a_killed_redis_stops_no_answer_and_no_message(scaled: Scaled) -> None:
    check(scenarios.redis_killed(scaled))
