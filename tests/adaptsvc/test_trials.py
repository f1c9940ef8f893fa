"""Claims about candidates on trial: one at a time, by figures of all processes, and a person's word wins."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from adaptsvc.errors import StateUnavailableError
from adaptsvc.metrics import Observer
from adaptsvc.shadow_record import Report, TrialOutcome, Verdict
from adaptsvc.shadow_section import ShadowSettings
from adaptsvc.trials import Places, Trials
from adaptsvc.trust.shadow import Tally
from adaptsvc.versions.board import FileBoard
from adaptsvc.versions.history import Desk
from adaptsvc.versions.pins import FilePins
from adaptsvc.versions.pointer import FilePointer
from adaptsvc.versions.reports import FileReports
from adaptsvc.versions.retention import prune
from adaptsvc.versions.shadow_desk import ShadowDesk
from adaptsvc.versions.store import VersionStore
from tests.adaptsvc.versions.contract_store import DELTA
from tests.adaptsvc.versions.examples import draft, head

SETTINGS = ShadowSettings(fraction=0.5, min_images=10, timeout_s=60.0)
AGREES, DIFFERS = Tally(images=10, agreed=10), Tally(images=10, agreed=3)


class Decisions(Observer):
    def __init__(self) -> None:
        self.outcomes: list[TrialOutcome] = []

    def shadow_decided(self, outcome: TrialOutcome) -> None:
        self.outcomes.append(outcome)


class Unreachable(FileBoard):
    """A board that stops answering."""

    away = False

    def write(self, data: bytes) -> None:
        if self.away:
            raise StateUnavailableError("away")
        super().write(data)


class Bench:
    """Version 0 serves; its children are candidates."""

    def __init__(self, folder: Path) -> None:
        self.store = VersionStore(folder / "store")
        self.pointer = FilePointer(folder / "CURRENT")
        self.board = Unreachable(folder / "SHADOW")
        self.desk = ShadowDesk(self.board, FileReports(folder / "reports"))
        self.observer = Decisions()
        self.store.publish(draft(parent=None), DELTA, head())
        self.pointer.force(0)
        self.now = 1000.0
        self.trials = self.start()

    def start(self) -> Trials:
        """As another worker process would."""
        places = Places(self.store, self.pointer, self.desk)
        return Trials(places, SETTINGS, self.observer)

    def publish(self, parent: int = 0) -> int:
        version = self.store.publish(draft(parent=parent), DELTA, head()).id
        self.trials.submit(version, parent)
        return version

    def look(self, after_s: float = 2.0) -> Verdict | None:
        self.now += after_s
        return self.trials.look(self.now)

    def report(self, version: int, tally: Tally, name: str = "a", problem: str = "") -> None:
        self.desk.tell(name, Report(version=version, tally=tally, problem=problem))

    @property
    def tried(self) -> int | None:
        trial = self.desk.read().trial
        return None if trial is None else trial.version


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_candidate_is_promoted_once_all_processes_together_saw_enough(bench: Bench) -> None:
    version = bench.publish()
    assert bench.look() is None
    bench.report(version, Tally(images=6, agreed=6), "a")
    assert bench.look() is None
    assert bench.pointer.read().version == 0
    bench.report(version, Tally(images=4, agreed=3), "b")
    verdict = bench.look()
    assert verdict is not None
    assert (verdict.outcome, verdict.reasons, verdict.version) == ("promoted", (), version)
    assert (verdict.figures.images, verdict.figures.agreement) == (10, 0.9)
    assert bench.pointer.read().version == version
    assert (bench.tried, bench.observer.outcomes) == (None, ["promoted"])


def test_a_candidate_that_disagrees_is_refused_and_the_history_says_why(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    version = bench.publish()
    bench.look()
    bench.report(version, DIFFERS)
    with caplog.at_level(logging.INFO):
        verdict = bench.look()
    assert verdict is not None
    assert (verdict.outcome, verdict.reasons) == ("refused", ("shadow_agreement",))
    assert bench.pointer.read().version == 0
    (refusal,) = bench.store.refusals()
    assert (refusal.reasons, refusal.draft.parent) == (("shadow_agreement",), 0)
    (line,) = [r.message for r in caplog.records if "is refused" in r.message]
    assert "after 10 images: agreement 0.300" in line
    assert bench.look() is None, "it is decided once"


def test_too_little_traffic_is_a_refusal_not_a_promotion(bench: Bench) -> None:
    version = bench.publish()
    bench.look()
    bench.report(version, Tally(images=9, agreed=9))
    assert bench.look(59.0) is None
    verdict = bench.look()
    assert verdict is not None
    assert verdict.reasons == ("shadow_timeout",)
    assert bench.pointer.read().version == 0


def test_a_candidate_that_one_process_cannot_run_is_refused(bench: Bench) -> None:
    version = bench.publish()
    bench.look()
    bench.report(version, AGREES, "a")
    bench.report(version, Tally(), "b", problem="self_test")
    verdict = bench.look()
    assert verdict is not None
    assert verdict.reasons == ("shadow_failed",)


def test_later_candidates_wait_for_the_running_window_and_the_newest_of_them_is_next(
    bench: Bench,
) -> None:
    first = bench.publish()
    bench.look()
    since = bench.desk.read().trial
    bench.report(first, Tally(images=5, agreed=0))
    second, third = bench.publish(), bench.publish()
    bench.look()
    state = bench.desk.read()
    assert (state.trial, state.waiting and state.waiting.version) == (since, third)
    assert bench.trials.candidates() == [first, third]
    bench.report(first, DIFFERS)
    bench.look()
    bench.look()
    assert bench.tried == third
    assert bench.desk.found(first) == (Tally(), ""), "reports of the last trial are forgotten"
    assert second not in bench.trials.candidates()


def test_a_candidate_that_waits_is_overtaken_when_the_one_before_it_is_promoted(
    bench: Bench,
) -> None:
    first = bench.publish()
    bench.look()
    second = bench.publish()
    bench.report(first, AGREES)
    bench.look()
    verdict = bench.look()
    assert verdict is not None
    assert (verdict.version, verdict.outcome) == (second, "overtaken")
    assert verdict.reasons == ("shadow_overtaken",)
    assert bench.pointer.read().version == first
    assert bench.store.refusals() == [], "nothing was found against it"


@pytest.mark.parametrize(("hold", "reason"), [(True, "held_by_a_person"), (False, "")])
def test_a_hold_ends_a_trial_and_its_end_does_not(bench: Bench, hold: bool, reason: str) -> None:
    version = bench.publish()
    bench.look()
    bench.report(version, AGREES)
    bench.pointer.force(0, hold=hold)
    verdict = bench.look()
    assert verdict is not None
    assert verdict.reasons == ((reason,) if reason else ())
    assert bench.pointer.read().version == (0 if hold else version)


def test_what_a_person_activates_meanwhile_wins(bench: Bench) -> None:
    other = bench.store.publish(draft(parent=0), DELTA, head()).id
    version = bench.publish()
    bench.look()
    bench.report(version, AGREES)
    bench.pointer.force(other)
    verdict = bench.look()
    assert verdict is not None
    assert (verdict.outcome, bench.pointer.read().version) == ("overtaken", other)


def test_a_candidate_that_a_person_activates_itself_counts_as_promoted(bench: Bench) -> None:
    version = bench.publish()
    bench.look()
    bench.pointer.force(version)
    verdict = bench.look()
    assert verdict is not None
    assert verdict.outcome == "promoted"


def test_a_worker_that_starts_again_goes_on_with_the_same_window_and_queue(bench: Bench) -> None:
    first = bench.publish()
    bench.look()
    second = bench.publish()
    before = bench.desk.read()
    bench.report(first, Tally(images=5, agreed=5), "a")
    bench.trials = bench.start()
    assert bench.look() is None
    assert bench.desk.read() == before
    bench.report(first, Tally(images=5, agreed=0), "b")
    verdict = bench.look()
    assert verdict is not None
    assert (verdict.version, verdict.figures.images) == (first, 10)
    bench.look()
    assert bench.tried == second


def test_a_worker_that_died_after_the_promotion_notes_it_when_it_is_back(bench: Bench) -> None:
    version = bench.publish()
    bench.look()
    bench.report(version, AGREES)
    bench.board.away = True
    with pytest.raises(StateUnavailableError):
        bench.look()
    bench.board.away = False
    bench.trials = bench.start()
    verdict = bench.look()
    assert verdict is not None
    assert (verdict.outcome, verdict.figures.images) == ("promoted", 10)
    assert bench.pointer.read().sequence == 2, "it was promoted once"


def test_what_cannot_be_read_is_begun_anew(bench: Bench) -> None:
    bench.board.write(b"{}}")
    assert bench.look() is None
    version = bench.publish()
    bench.look()
    assert bench.tried == version


def test_a_report_of_another_candidate_or_of_nothing_counts_for_none(bench: Bench) -> None:
    version = bench.publish()
    bench.look()
    bench.report(version + 1, AGREES, "late")
    bench.desk.reports.write("broken", b"{")
    assert bench.look() is None
    assert bench.tried == version


def test_candidates_are_not_pruned_and_the_history_shows_how_they_stand(bench: Bench) -> None:
    first = bench.publish()
    bench.look()
    second = bench.publish()
    for _ in range(3):
        bench.store.publish(draft(parent=0), DELTA, head())
    pins = FilePins(bench.store.root / "PINS")
    prune(bench.store, bench.pointer, pins, 1, bench.trials.candidates())
    assert bench.store.ids() == [0, first, second, second + 3]
    desk: Any = Desk(bench.store, bench.pointer, pins, bench.desk)
    shown = {entry.id: entry.shadow for entry in desk.entries(bench.store.ids())}
    assert shown == {0: "", first: "shadow", second: "waits for its shadow trial", second + 3: ""}
