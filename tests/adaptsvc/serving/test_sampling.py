"""Claims about sampling: what is published, what is dropped and why, and that no request ever notices."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from adaptsvc.config import Settings
from adaptsvc.metrics import Observer, SampleOutcome
from adaptsvc.serving.sampling import Sampler, SamplingLimits, is_chosen
from adaptsvc.streaming import IMAGES
from streams.again import in_order, spans
from streams.errors import LogUnavailableError, MessageTooLargeError
from streams.log import Log, MemoryLog
from streams.message import Message, NewMessage, Position
from streams.sqlite import SqliteLog
from streams.topics import load_topics
from tests.adaptsvc.serving.bench import Stand

TOPICS = load_topics()
ALL = SamplingLimits(fraction=1.0, per_second=1e6, queue_images=64, queue_bytes=10**7)
SOON_S = 20.0  # only ever waited for in full when a test fails


class Tally(Observer):
    """Counts what became of samples."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def sampled(self, outcome: SampleOutcome, images: int) -> None:
        self.outcomes[outcome] += images

    def await_total(self, images: int) -> dict[str, int]:
        """What came of so many images, once all of it is known."""
        deadline = time.monotonic() + SOON_S
        while sum(self.outcomes.values()) < images and time.monotonic() < deadline:
            time.sleep(0.005)
        return {outcome: count for outcome, count in self.outcomes.items() if count}


class Hanging(MemoryLog):
    """Appends begin, and end only once the test lets them."""

    def __init__(self) -> None:
        super().__init__(TOPICS)
        self.entered, self.release = threading.Event(), threading.Event()

    def append(self, topic: str, messages: Sequence[NewMessage]) -> tuple[Position, ...]:
        self.entered.set()
        assert self.release.wait(SOON_S)
        return super().append(topic, messages)


class Refusing(MemoryLog):
    """Refuses until told otherwise."""

    def __init__(self) -> None:
        super().__init__(TOPICS)
        self.broken, self.appends, self.closes = True, 0, 0

    def append(self, topic: str, messages: Sequence[NewMessage]) -> tuple[Position, ...]:
        self.appends += 1
        if self.broken:
            raise LogUnavailableError(Path("log"), "the disk is gone")
        return super().append(topic, messages)

    def close(self) -> None:
        self.closes += 1


class Small(MemoryLog):
    """Takes no message of 300 bytes or more."""

    def append(self, topic: str, messages: Sequence[NewMessage]) -> tuple[Position, ...]:
        for message in messages:
            if len(message.value) >= 300:
                raise MessageTooLargeError(topic, size_bytes=len(message.value), limit_bytes=300)
        return super().append(topic, messages)


def name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def published(log: Log) -> list[Message]:
    return list(in_order(log, spans(log, TOPICS, IMAGES)))


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def start(tally: Tally) -> Iterator[Callable[..., Sampler]]:
    """`start(log, limits)`: a sampler that publishes to a log; closed at the end."""
    started: list[Sampler] = []

    def make(log: Log, limits: SamplingLimits = ALL, clock: float | None = None) -> Sampler:
        clocks = {} if clock is None else {"clock": lambda: clock}
        sampler = Sampler(lambda: log, limits, tally, **clocks)
        started.append(sampler)
        sampler.start()
        return sampler

    yield make
    for sampler in started:
        sampler.close(SOON_S)


def test_the_image_is_published_as_it_came_under_the_id_of_its_answer(
    start: Callable[..., Sampler], tally: Tally, png: Callable[..., bytes]
) -> None:
    log, data, before = MemoryLog(TOPICS), png(0), datetime.now(UTC)
    start(log).offer(name_of(data), data)
    assert tally.await_total(1) == {"published": 1}
    (message,) = published(log)
    assert (message.key, message.value) == (name_of(data), data)
    assert message.headers["image-id"] == name_of(data).encode()
    assert message.headers["content-type"] == b"image/png"
    assert message.headers["source"] == b"serving"
    captured = datetime.fromisoformat(message.headers["captured-at"].decode())
    assert abs((captured - before).total_seconds()) < SOON_S


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_the_share_of_chosen_images_is_the_fraction_and_the_choice_never_changes(
    fraction: float,
) -> None:
    ids = [name_of(str(number).encode()) for number in range(4000)]
    chosen = [is_chosen(image_id, fraction) for image_id in ids]
    assert np.mean(chosen) == pytest.approx(fraction, abs=0.025)
    assert chosen == [is_chosen(image_id, fraction) for image_id in ids]


def test_a_larger_share_holds_the_images_of_a_smaller_one() -> None:
    ids = [name_of(str(number).encode()) for number in range(500)]
    small, large = ({i for i in ids if is_chosen(i, share)} for share in (0.2, 0.4))
    assert small < large


def test_where_no_image_is_chosen_nothing_is_opened_and_no_thread_runs(tally: Tally) -> None:
    def fail() -> Log:
        raise AssertionError("opened")

    threads = threading.active_count()
    sampler = Sampler(fail, SamplingLimits(0.0, 5.0, 64, 10**7), tally)
    sampler.start()
    sampler.offer("f" * 64, b"x")
    assert threading.active_count() == threads
    sampler.close(0)
    assert not tally.outcomes


def test_images_over_the_cap_are_dropped_and_counted(
    start: Callable[..., Sampler], tally: Tally, png: Callable[..., bytes]
) -> None:
    sampler = start(MemoryLog(TOPICS), SamplingLimits(1.0, 3.0, 64, 10**7), clock=5.0)
    for number in range(10):
        sampler.offer(name_of(png(number)), png(number))
    assert tally.await_total(10) == {"published": 3, "over_cap": 7}


@pytest.mark.parametrize(
    ("images", "queue_bytes", "kept"), [(4, 10**7, 4), (64, 2500, 2)], ids=["images", "bytes"]
)
def test_a_log_that_hangs_fills_the_queue_and_offers_go_on(
    start: Callable[..., Sampler],
    tally: Tally,
    images: int,
    queue_bytes: int,
    kept: int,
    png: Callable[..., bytes],
) -> None:
    log, data = Hanging(), png(0) + bytes(1000)
    data = data[:1000]
    sampler = start(log, SamplingLimits(1.0, 1e6, images, queue_bytes))
    sampler.offer(name_of(data), data)
    assert log.entered.wait(SOON_S)  # the first is being written, and counts
    started = time.monotonic()
    for _ in range(50):
        sampler.offer(name_of(data), data)
    assert time.monotonic() - started < 5
    assert tally.outcomes == {"queue_full": 51 - kept}
    log.release.set()
    assert tally.await_total(51) == {"queue_full": 51 - kept, "published": kept}
    sampler.offer(name_of(data), data)
    assert tally.await_total(52)["published"] == kept + 1, "there is room again"


def test_a_log_that_refuses_costs_its_batches_and_is_opened_again(
    start: Callable[..., Sampler], tally: Tally, png: Callable[..., bytes]
) -> None:
    log = Refusing()
    sampler = start(log)
    sampler.offer(name_of(png(0)), png(0))
    assert tally.await_total(1) == {"log_refused": 1}
    log.broken = False
    sampler.offer(name_of(png(1)), png(1))
    assert tally.await_total(2) == {"log_refused": 1, "published": 1}
    assert (log.appends, log.closes) == (2, 1)


def test_a_log_that_cannot_be_opened_is_tried_again_with_the_next_image(
    tally: Tally, png: Callable[..., bytes]
) -> None:
    opened: Iterator[Log | RuntimeError] = iter([RuntimeError("no broker"), MemoryLog(TOPICS)])

    def open_log() -> Log:
        found = next(opened)
        if isinstance(found, RuntimeError):
            raise found
        return found

    sampler = Sampler(open_log, ALL, tally)
    sampler.start()
    sampler.offer(name_of(png(0)), png(0))
    assert tally.await_total(1) == {"log_refused": 1}
    sampler.offer(name_of(png(1)), png(1))
    assert tally.await_total(2) == {"log_refused": 1, "published": 1}
    sampler.close(SOON_S)


def test_an_image_too_large_for_the_topic_does_not_take_the_others_with_it(
    start: Callable[..., Sampler], tally: Tally, png: Callable[..., bytes]
) -> None:
    tiny = [png(number, size=(2, 2)) for number in range(3)]
    large = png(9, size=(400, 400))
    log = Small(TOPICS)
    sampler = start(log)
    with sampler._changed:  # so that they are one batch
        for data in (tiny[0], large, *tiny[1:]):
            sampler.offer(name_of(data), data)
    assert tally.await_total(4) == {"published": 3, "log_refused": 1}
    assert {m.value for m in published(log)} == set(tiny)


def test_closing_publishes_what_waits(tally: Tally, png: Callable[..., bytes]) -> None:
    log = MemoryLog(TOPICS)
    sampler = Sampler(lambda: log, ALL, tally)
    for number in range(40):
        sampler.offer(name_of(png(number)), png(number))
    sampler.start()
    sampler.close(SOON_S)
    assert tally.outcomes["published"] == 40
    with pytest.raises(Exception, match="closed"):
        log.append(IMAGES, [])


def test_closing_gives_up_after_its_time_and_counts_what_was_lost_once(
    tally: Tally, png: Callable[..., bytes]
) -> None:
    log = Hanging()
    sampler = Sampler(lambda: log, ALL, tally)
    sampler.start()
    for number in range(3):
        sampler.offer(name_of(png(number)), png(number))
    assert log.entered.wait(SOON_S)
    started = time.monotonic()
    sampler.close(0.2)
    assert time.monotonic() - started < 5
    assert tally.outcomes == {"stopping": 3}
    sampler.offer(name_of(png(5)), png(5))
    log.release.set()
    sampler._thread.join(SOON_S)
    sampler.close(0.2)
    assert tally.await_total(4) == {"stopping": 4}


def test_offers_of_many_threads_are_all_accounted_for(
    start: Callable[..., Sampler], tally: Tally, png: Callable[..., bytes]
) -> None:
    log, pictures = MemoryLog(TOPICS), [png(number) for number in range(8)]
    sampler = start(log, SamplingLimits(1.0, 1e6, 5, 10**7))

    def offer() -> None:
        for _ in range(25):
            for data in pictures:
                sampler.offer(name_of(data), data)

    threads = [threading.Thread(target=offer) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcomes = tally.await_total(800)
    assert sum(outcomes.values()) == 800
    assert set(outcomes) <= {"published", "queue_full"}
    assert outcomes["published"] == len(published(log))


@pytest.mark.parametrize("tiny_directory", ["resnet"], indirect=True)
@pytest.mark.parametrize("kind", [Hanging, Refusing])
def test_requests_are_answered_whatever_the_log_does(
    kind: Callable[[], Log],
    prepared: Settings,
    start: Callable[..., Sampler],
    tally: Tally,
    png: Callable[..., bytes],
) -> None:
    log = kind()
    sampler = start(log, SamplingLimits(1.0, 1e6, 2, 10**7))
    with Stand(prepared, sample=sampler.offer).client() as client:
        for number in range(8):
            answer = client.post(
                "/v1/classify", content=png(number), headers={"content-type": "image/png"}
            )
            assert answer.status_code == 200
    if isinstance(log, Hanging):
        assert tally.outcomes == {"queue_full": 6}
        log.release.set()
    else:
        assert tally.await_total(8).get("published", 0) == 0


@pytest.mark.parametrize("tiny_directory", ["resnet"], indirect=True)
def test_the_published_id_is_that_of_the_response_and_refused_images_are_not_published(
    prepared: Settings, tally: Tally, png: Callable[..., bytes]
) -> None:
    sampler = Sampler(lambda: SqliteLog(prepared.stream_file, TOPICS), ALL, tally)
    sampler.start()
    files = [("images", (f"{n}.png", png(n), "image/png")) for n in range(3)]
    with Stand(prepared, sample=sampler.offer).client() as client:
        body = client.post("/v1/classify", files=files).json()
        bad = client.post("/v1/classify", content=b"text", headers={"content-type": "image/png"})
    sampler.close(SOON_S)
    assert bad.status_code == 400
    with closing(SqliteLog(prepared.stream_file, TOPICS)) as log:
        assert {m.key for m in published(log)} == {r["image_id"] for r in body["results"]}
