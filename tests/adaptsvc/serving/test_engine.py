"""Claims about the engine: one version per batch, stages apart, failures that stay where they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adaptsvc.config import Settings
from adaptsvc.errors import InferenceError
from adaptsvc.images import decode
from adaptsvc.serving.batching import BatchLimits
from adaptsvc.serving.engine import Engine, FullError
from adaptsvc.serving.jobs import Decoded, Item
from adaptsvc.serving.predictor import Predictor
from adaptsvc.types import Float32
from adaptsvc.versions.delta import Head
from tests.adaptsvc.serving.bench import (
    ENGINE,
    LIMITS,
    PATIENCE_S,
    Broken,
    Held,
    NotANumber,
    Stand,
    Tally,
    session_of,
)

pytestmark = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
Png = Callable[[int], bytes]


def labels(
    predictor: Predictor, images: Sequence[Decoded], embeddings: Float32
) -> tuple[int, list[str]]:
    """Which version answered, and what."""
    answer = predictor.interpret(embeddings, 1)
    return answer.version, [prediction.label for prediction in answer.predictions]


def started(stand: Stand) -> Engine:
    stand.live.poll()
    stand.engine.start()
    return stand.engine


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_jobs_that_wait_are_computed_together_and_counted_in_images(
    prepared: Settings, png: Png
) -> None:
    stand = Stand(prepared)
    engine = started(stand)
    session = Held(session_of(stand))
    stand.use(session)
    first = engine.submit([Item(png(0))], labels, PATIENCE_S)
    assert session.entered.wait(PATIENCE_S)
    rest = [engine.submit([Item(png(n)), Item(png(n + 1))], labels, PATIENCE_S) for n in (1, 3)]
    large = engine.submit([Item(png(n)) for n in range(11)], labels, PATIENCE_S)
    wait_until(lambda: len(engine._ready) == 3)
    session.release.set()
    assert [len(job.result(PATIENCE_S)[1]) for job in (first, *rest, large)] == [1, 2, 2, 11]
    assert stand.observer.batches == [1, 4, 8, 3]  # 11 do not fit beside the 4
    assert set(stand.observer.stages) == {"queue", "decode", "infer", "postprocess"}
    engine.close(1)


def test_a_batch_gives_what_each_image_gives_alone(prepared: Settings, png: Png) -> None:
    stand = Stand(prepared)
    engine = started(stand)
    assert stand.live.current is not None
    items = [Item(png(n)) for n in range(11)]

    def embeddings_of(_predictor: object, _images: object, embeddings: Float32) -> Float32:
        return embeddings

    together = engine.submit(items, embeddings_of, PATIENCE_S).result(PATIENCE_S)
    preprocess = stand.live.current.base.preprocess
    alone = [
        stand.live.current.encoder.embed(decode(item.data, preprocess, LIMITS)[None])[0]
        for item in items
    ]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
    engine.close(1)


def test_every_answer_is_of_one_version_while_versions_with_opposite_heads_take_turns(
    prepared: Settings, png: Png
) -> None:
    """Version 1 says of each image what version 0 says of it least: a mixed answer would show."""
    stand = Stand(prepared)
    engine = started(stand)
    plain = stand.live.current
    assert plain is not None
    items = [Item(png(n)) for n in range(6)]
    head = plain.version.head
    opposite_head = Head(-head.class_embeddings, head.context, head.self_test_embeddings)
    manifest = plain.manifest.model_copy(update={"id": 1})
    opposite = Predictor(
        plain.encoder, replace(plain.version, head=opposite_head, manifest=manifest)
    )
    expected = {}
    for predictor in (plain, opposite):
        stand.live.current = predictor
        version, said = engine.submit(items, labels, PATIENCE_S).result(PATIENCE_S)
        expected[version] = said
    assert all(a != b for a, b in zip(expected[0], expected[1], strict=True))
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            stand.live.current = plain if stand.live.current is opposite else opposite

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    for _ in range(20):
        jobs = [engine.submit(items, labels, PATIENCE_S) for _ in range(8)]
        for job in jobs:
            version, said = job.result(PATIENCE_S)
            assert said == expected[version]
            seen.add(version)
    stop.set()
    swapper.join()
    assert seen == {0, 1}
    engine.close(1)


def test_inference_goes_on_while_another_image_is_being_decoded(
    prepared: Settings, png: Png
) -> None:
    slow, release = png(99), threading.Event()

    def sometimes_slow(data: bytes, preprocess: object) -> object:
        if data == slow:
            assert release.wait(PATIENCE_S)
        return decode(data, preprocess, LIMITS)  # type: ignore[arg-type]

    stand = Stand(prepared, decode=sometimes_slow, limits=replace(ENGINE, decoders=2))
    engine = started(stand)
    waits = engine.submit([Item(slow)], labels, PATIENCE_S)
    for number in range(3):
        assert engine.submit([Item(png(number))], labels, PATIENCE_S).result(PATIENCE_S)
    assert not waits.done()
    release.set()
    assert waits.result(PATIENCE_S)
    engine.close(1)


@pytest.mark.parametrize("kind", [Broken, NotANumber])
def test_a_failing_session_fails_its_requests_and_the_next_ones_are_tried(
    prepared: Settings, png: Png, kind: type
) -> None:
    stand = Stand(prepared)
    engine = started(stand)
    whole = session_of(stand)
    stand.use(kind(whole) if kind is NotANumber else kind())
    with pytest.raises(InferenceError, match=r"memory|NaN"):
        engine.submit([Item(png(0))], labels, PATIENCE_S).result(PATIENCE_S)
    stand.use(whole)
    assert engine.submit([Item(png(0))], labels, PATIENCE_S).result(PATIENCE_S)[0] == 0
    assert engine.inside == 0
    engine.close(1)


def test_an_answer_that_cannot_be_made_fails_alone(prepared: Settings, png: Png) -> None:
    def impossible(*_args: object) -> object:
        raise ValueError("no")

    stand = Stand(prepared)
    engine = started(stand)
    session = Held(session_of(stand))
    stand.use(session)
    engine.submit([Item(png(0))], labels, PATIENCE_S)
    assert session.entered.wait(PATIENCE_S)
    fails = engine.submit([Item(png(1))], impossible, PATIENCE_S)
    works = engine.submit([Item(png(2))], labels, PATIENCE_S)
    wait_until(lambda: len(engine._ready) == 2)
    session.release.set()
    with pytest.raises(ValueError, match="no"):
        fails.result(PATIENCE_S)
    assert works.result(PATIENCE_S)[0] == 0
    assert stand.observer.batches == [1, 2]
    engine.close(1)


def test_closing_waits_for_what_is_inside(prepared: Settings, png: Png) -> None:
    stand = Stand(prepared)
    engine = started(stand)
    jobs = [engine.submit([Item(png(n))], labels, PATIENCE_S) for n in range(6)]
    engine.close(PATIENCE_S)
    assert all(job.done() for job in jobs)
    assert not any(thread.is_alive() for thread in engine._threads)


def test_what_is_not_admitted_is_not_inside(prepared: Settings, png: Png, tmp_path: Path) -> None:
    stand = Stand(prepared, limits=replace(ENGINE, queue_images=1, batch=BatchLimits(8, 0.0)))
    engine = started(stand)
    session = Held(session_of(stand))
    stand.use(session)
    inside = engine.submit([Item(png(0))], labels, PATIENCE_S)
    with pytest.raises(FullError):
        engine.submit([Item(png(1))], labels, PATIENCE_S)
    session.release.set()
    assert inside.result(PATIENCE_S)
    assert engine.inside == 0
    engine.close(1)


def test_a_job_decoded_while_closing_waits_is_computed_at_once(
    prepared: Settings, png: Png
) -> None:
    slow, release = png(99), threading.Event()

    def sometimes_slow(data: bytes, preprocess: object) -> object:
        assert data != slow or release.wait(PATIENCE_S)
        return decode(data, preprocess, LIMITS)  # type: ignore[arg-type]

    stand = Stand(prepared, decode=sometimes_slow, limits=replace(ENGINE, decoders=2))
    engine = started(stand)
    session = Held(session_of(stand))
    stand.use(session)
    first = engine.submit([Item(png(0))], labels, PATIENCE_S)
    assert session.entered.wait(PATIENCE_S)
    second = engine.submit([Item(slow)], labels, PATIENCE_S)
    closing = threading.Thread(target=engine.close, args=(2 * PATIENCE_S,))
    closing.start()
    wait_until(lambda: len(engine._changed._waiters) == 1)  # type: ignore[attr-defined]
    session.release.set()
    assert first.result(PATIENCE_S)
    wait_until(lambda: len(engine._changed._waiters) == 2)  # type: ignore[attr-defined]
    release.set()
    assert second.result(PATIENCE_S / 2)  # not when the time to close is over
    closing.join(PATIENCE_S)
    assert not closing.is_alive()


def test_a_batch_that_was_cancelled_as_it_was_taken_is_no_failure(
    prepared: Settings, png: Png, caplog: pytest.LogCaptureFixture
) -> None:
    stand = Stand(prepared)
    stand.live.poll()
    gone = stand.engine.submit([Item(png(0))], labels, PATIENCE_S)
    wait_until(lambda: len(stand.engine._ready) == 1)
    batch = [stand.engine._ready.popleft()]
    gone.cancel()
    stand.engine._answer(batch)
    assert not caplog.records
    assert stand.observer.spared_images == 1
    stand.engine.close(1)


def test_the_last_count_that_is_told_is_how_many_are_inside(prepared: Settings, png: Png) -> None:
    told: list[int] = []

    class Slow(Tally):
        def inside(self, images: int) -> None:
            if images == 1:
                time.sleep(0.2)  # another thread would tell of the 0 meanwhile
            told.append(images)

    stand = Stand(prepared, observer=Slow())
    stand.live.poll()
    jobs = [stand.engine.submit([Item(png(n))], labels, PATIENCE_S) for n in range(2)]
    wait_until(lambda: len(stand.engine._ready) == 2)
    leaving = [threading.Thread(target=job.cancel) for job in jobs]
    for thread in leaving:
        thread.start()
    for thread in leaving:
        thread.join()
    assert told[-1] == 0
    stand.engine.close(1)
