"""Claims about candidates on live images: nobody sees them, the figures are right, and nothing stays."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from adaptsvc.config import Settings
from adaptsvc.errors import VersionCorruptError
from adaptsvc.images import decode
from adaptsvc.serving.door import Door
from adaptsvc.serving.jobs import Decoded
from adaptsvc.serving.predictor import Predictor
from adaptsvc.serving.sampling import is_chosen
from adaptsvc.serving.shadow import Shadow, Surroundings
from adaptsvc.serving.versioning import add_versions
from adaptsvc.shadow_record import Report
from adaptsvc.shadow_section import ShadowSettings
from adaptsvc.state import open_state
from adaptsvc.trials import Places, Trials
from adaptsvc.trust.shadow import Tally as Figures
from adaptsvc.types import Prediction
from adaptsvc.versions.history import Desk
from adaptsvc.versions.pins import FilePins
from tests.adaptsvc.serving.bench import LIMITS, PATIENCE_S, RAW, NotANumber, Stand, Tally
from tests.adaptsvc.serving.lives import Fixture

VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
EVERY = ShadowSettings(fraction=1.0, min_images=12, max_latency_ratio=1000.0, queue_images=64)
Png = Callable[[int], bytes]


class Counted(Tally):
    """Remembers what became of chosen images too."""

    def __init__(self) -> None:
        super().__init__()
        self.shadow: list[str] = []

    def shadowed(self, outcome: str) -> None:
        self.shadow.append(outcome)


class Bench:
    """A service process and a worker's trials, on one store whose version 0 serves."""

    def __init__(self, settings: Settings, shadow: ShadowSettings = EVERY) -> None:
        self.versions = Fixture(settings)
        self.desk = open_state(settings).shadow
        self.stand = Stand(settings)
        self.observer = Counted()
        self.slow = False
        self.now = 1000.0
        self.shadow = self.process(shadow)
        places = Places(self.versions.store, self.versions.pointer, self.desk)
        self.trials = Trials(places, shadow, self.observer)

    def process(self, settings: ShadowSettings) -> Shadow:
        """One more, with its own figures; its thread is this one."""
        around = Surroundings(
            desk=self.desk,
            prepare=self.stand.live.prepare,
            is_slow=lambda: self.slow,
            own_priority=False,
            poll_interval_s=0.0,
        )
        return Shadow(around, settings, self.observer, wall=lambda: self.now)

    def propose(self, *, flip: bool = False) -> int:
        """A child of version 0 on trial."""
        version = self.versions.publish(flip=flip, shift=0.001).id
        self.trials.submit(version, 0)
        self.look()
        self.shadow.run_once(0.0)
        return version

    def look(self) -> str | None:
        self.now += 2
        verdict = self.trials.look(self.now)
        return None if verdict is None else ", ".join(verdict.reasons) or verdict.outcome

    @contextmanager
    def client(self) -> Iterator[TestClient]:
        self.stand.engine.show(self.shadow.offer)
        with self.stand.client() as client:
            yield client

    def answers(self, png: Png, images: int) -> list[tuple[Prediction, ...]]:
        """Of what serves and of the candidate, each asked alone."""
        served, candidate = self.stand.live.current, self.shadow._candidate
        assert served is not None
        assert candidate is not None
        pixels = [decode(png(n), served.base.preprocess, LIMITS)[None] for n in range(images)]
        return [
            tuple(each.answer(one, 1).predictions[0] for one in pixels)
            for each in (served, candidate)
        ]

    def work(self, images: int) -> Figures:
        """Let the candidate answer what waits, and tell."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.shadow._queue) < images:  # an answer is out a moment before it is offered
            assert time.monotonic() < deadline
            time.sleep(0.002)
        self.shadow._told_at = -1e9
        for _ in range(images):
            self.shadow.run_once(0.0)
        self.shadow._told_at = -1e9
        self.shadow.run_once(0.0)
        trial = self.desk.read().trial
        assert trial is not None
        return self.desk.found(trial.version)[0]


@pytest.fixture
def bench(prepared: Settings) -> Bench:
    return Bench(prepared)


def ask(client: TestClient, png: Png, images: int) -> set[int]:
    """Which versions answered."""
    answers = [client.post("/v1/classify", content=png(n), headers=RAW) for n in range(images)]
    assert {answer.status_code for answer in answers} == {200}
    return {answer.json()["model_version"] for answer in answers}


def test_a_candidate_that_agrees_is_promoted_and_no_answer_named_it_before(
    bench: Bench, png: Png
) -> None:
    with bench.client() as client:
        version = bench.propose()
        assert ask(client, png, 12) == {0}
        assert client.get("/v1/model").json()["model_version"] == 0
        found = bench.work(12)
        before, after = bench.answers(png, 12)
        agreed = sum(b.label == a.label for b, a in zip(before, after, strict=True))
        shifts = [a.confidence - b.confidence for b, a in zip(before, after, strict=True)]
        assert (found.images, found.agreed, found.pairs) == (12, agreed, 3)
        assert found.shift == pytest.approx(sum(shifts), abs=1e-4)
        assert found.absolute_shift == pytest.approx(sum(map(abs, shifts)), abs=1e-4)
        assert bench.observer.shadow.count("agreed") == agreed
        assert bench.look() == "promoted"
        bench.stand.live.poll()
        assert ask(client, png, 1) == {version}


@VIT
def test_a_candidate_with_the_opposite_head_is_refused_by_agreement(bench: Bench, png: Png) -> None:
    with bench.client() as client:
        bench.propose(flip=True)
        assert ask(client, png, 12) == {0}
        assert bench.work(12).agreed == 0
        assert "shadow_agreement" in str(bench.look())
        assert ask(client, png, 1) == {0}
    assert bench.versions.pointer.read().version == 0


def test_the_candidate_is_freed_when_its_trial_is_over(bench: Bench, png: Png) -> None:
    with bench.client() as client:
        bench.propose()
        candidate = weakref.ref(bench.shadow._candidate)
        assert isinstance(candidate(), Predictor)
        ask(client, png, 12)
        bench.work(12)
        assert bench.look() == "promoted"
        bench.shadow.run_once(0.0)
        gc.collect()
        assert candidate() is None
        assert not bench.shadow._queue


@VIT
def test_a_process_that_starts_in_the_middle_adds_to_what_one_before_it_found(
    bench: Bench, png: Png
) -> None:
    with bench.client() as client:
        bench.propose()
        ask(client, png, 5)
        assert bench.work(5).images == 5
        bench.shadow = bench.process(EVERY)
        bench.stand.engine.show(bench.shadow.offer)
        bench.shadow.run_once(0.0)
        ask(client, png, 7)
        assert bench.work(7).images == 12
    assert bench.look() == "promoted"


@VIT
def test_what_does_not_fit_or_comes_while_the_service_is_slow_is_dropped_and_counted(
    prepared: Settings, png: Png
) -> None:
    bench = Bench(prepared, EVERY.model_copy(update={"queue_images": 3}))
    with bench.client() as client:
        bench.propose()
        ask(client, png, 5)
        bench.stand.engine.close(PATIENCE_S)
    assert bench.observer.shadow == ["dropped"] * 2
    assert (found := bench.work(3)).images == 3
    assert found.dropped == 2
    bench.slow = True
    current = bench.stand.live.current
    assert current is not None

    embeddings = current.encoder.embed(bench.versions.pixels)
    bench.shadow.offer(current, [Decoded("a", bench.versions.pixels[0])], embeddings)
    assert bench.observer.shadow[-1] == "dropped"
    assert not bench.shadow._queue


@VIT
def test_about_the_share_that_was_asked_for_is_tried_and_not_the_one_that_is_sampled(
    prepared: Settings,
) -> None:

    bench = Bench(prepared, EVERY.model_copy(update={"fraction": 0.25, "queue_images": 400}))
    bench.stand.live.poll()
    bench.propose()
    current = bench.stand.live.current
    assert current is not None
    embedding = current.encoder.embed(bench.versions.pixels)
    for n in range(400):
        bench.shadow.offer(current, [Decoded(f"image-{n}", bench.versions.pixels[0])], embedding)
    assert 70 <= (tried := len(bench.shadow._queue)) <= 130
    sampled = sum(is_chosen(f"image-{n}", 0.25) for n in range(400))
    assert 70 <= sampled <= 130
    both = sum(
        is_chosen(f"image-{n}", 0.25) and is_chosen(f"shadow image-{n}", 0.25) for n in range(400)
    )
    assert both < tried / 2


@VIT
def test_a_candidate_that_gives_no_numbers_is_refused_and_requests_go_on(
    bench: Bench, png: Png
) -> None:
    with bench.client() as client:
        version = bench.propose()
        candidate = bench.shadow._candidate
        assert candidate is not None
        candidate.encoder.session = NotANumber(candidate.encoder.session)
        assert ask(client, png, 1) == {0}
        bench.work(1)
        assert bench.desk.found(version)[1] == "inference"
        assert bench.look() == "shadow_failed"
        assert ask(client, png, 1) == {0}


@VIT
def test_a_candidate_that_is_damaged_is_told_to_the_worker(
    bench: Bench, prepared: Settings
) -> None:
    version = bench.versions.publish().id
    path: Path = prepared.store / "versions" / f"{version:06d}" / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VersionCorruptError):
        bench.versions.store.load(version)
    bench.stand.live.poll()
    bench.trials.submit(version, 0)
    bench.look()
    bench.shadow.run_once(0.0)
    assert bench.desk.found(version)[1] == "altered"
    assert bench.look() == "shadow_failed"


@VIT
def test_a_trial_that_nobody_ends_is_left_after_its_time(bench: Bench) -> None:
    bench.stand.live.poll()
    bench.propose()
    assert bench.shadow._candidate is not None
    bench.now += EVERY.timeout_s + 10
    bench.shadow.run_once(0.0)
    assert bench.shadow._candidate is None


@VIT
def test_the_threads_of_a_process_do_all_of_it_by_themselves_and_end(
    bench: Bench, png: Png
) -> None:
    with bench.client() as client:
        bench.propose()
        bench.shadow.start()
        ask(client, png, 12)
        deadline = time.monotonic() + PATIENCE_S
        while (verdict := bench.look()) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert verdict == "promoted"
        bench.shadow.close()
        assert not bench.shadow._thread.is_alive()
        assert bench.shadow._candidate is None


@VIT
def test_the_history_shows_the_candidate_and_its_figures(prepared: Settings, png: Png) -> None:

    bench = Bench(prepared)
    bench.stand.live.poll()
    version = bench.propose()
    bench.desk.tell("a", Report(version=version, tally=Figures(images=4, agreed=3, shift=-0.4)))
    app = FastAPI()
    add_versions(
        app,
        Desk(bench.versions.store, bench.versions.pointer, FilePins(prepared.pins), bench.desk),
        Door(),
    )
    body = TestClient(app).get("/v1/versions").json()
    assert body["serving"] == 0
    assert [each["shadow"] for each in body["versions"]] == [None, "shadow"]
    assert body["shadow"]["trial"]["version"] == version
    assert (body["shadow"]["figures"]["agreement"], body["shadow"]["figures"]["images"]) == (
        0.75,
        4,
    )
    with bench.stand.client() as client:
        assert client.get("/v1/versions").json()["shadow"] is None, "off, it is not even asked for"
