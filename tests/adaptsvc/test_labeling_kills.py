"""Whenever a worker dies, what it had acknowledged is not lost, and the rest is read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptsvc.checkpoint import Checkpoint
from adaptsvc.config import Settings
from adaptsvc.streaming import IMAGES, LABELS
from streams.message import NewMessage, TopicPartition
from tests.adaptsvc.intake_bench import CLASSES, Bench

NAMES = st.sampled_from("abcdef")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("image"), NAMES),
        st.tuples(st.sampled_from(CLASSES), NAMES),
        st.tuples(st.just("read"), st.integers(1, 4).map(str)),
        st.tuples(st.sampled_from(["checkpoint", "kill"]), st.just("")),
    ),
    max_size=30,
)


class Worker:
    """Reads, checkpoints, commits and dies, in the order that the real one keeps."""

    def __init__(self, home: Path, pictures: dict[str, bytes]) -> None:
        small = Settings(home=home, classes=CLASSES)
        learn = small.learn.model_copy(update={"window_images": 2})
        self.bench, self.pictures = Bench(small.model_copy(update={"learn": learn})), pictures
        self.saved = Checkpoint()

    def do(self, what: str, detail: str) -> None:
        if what == "image":
            self.bench.log.append(IMAGES, [NewMessage(detail, self.pictures[detail])])
        elif what == "read":
            self.read(int(detail))
        elif what == "checkpoint":
            self.checkpoint()
        elif what == "kill":
            self.kill()
        else:
            self.bench.log.append(LABELS, [NewMessage(detail, b"", {"label": what.encode()})])

    def read(self, messages: int) -> int:
        bench = self.bench
        got = bench.consumer.poll(max_messages=messages, max_bytes=10**8, timeout_s=0.0)
        bench.intake.receive(got)
        bench.intake.window.take()  # as if a round had been: the window forgets at will
        if not bench.consumer.lag():
            bench.intake.expire(bench.clock())
        return len(got)

    def checkpoint(self) -> None:
        intake = self.bench.intake
        window, labels = intake.references()
        self.saved = Checkpoint(
            offsets=intake.offsets, window=window, labels=labels, join=intake.join_references()
        )
        self.bench.consumer.commit(partitions(intake.offsets))

    def kill(self) -> None:
        self.bench.intake = self.bench.start()
        self.bench.intake.restore(Checkpoint.model_validate_json(self.saved.model_dump_json()))
        self.bench.consumer.seek(self.bench.consumer.committed())

    def labels(self) -> dict[str, str]:
        return {s.image_id: CLASSES[s.target] for s in self.bench.intake.labels.samples}


def partitions(offsets: dict[str, int]) -> dict[TopicPartition, int]:
    split = {name: name.rpartition("/") for name in offsets}
    return {TopicPartition(split[n][0], int(split[n][2])): offset for n, offset in offsets.items()}


@pytest.mark.parametrize("dies_at_the_end", [False, True])
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
def test_whenever_it_dies_each_image_ends_with_the_last_label_said_and_nothing_is_buried(
    tmp_path: Path, pictures: dict[str, bytes], dies_at_the_end: bool, steps: list[tuple[str, str]]
) -> None:
    worker = Worker(tmp_path, pictures)
    for what, detail in steps:
        worker.do(what, detail)
    if dies_at_the_end:
        worker.kill()
    while worker.read(3):
        pass
    sent = {detail for what, detail in steps if what == "image"}
    said = {detail: what for what, detail in steps if what in CLASSES}
    assert worker.labels() == {name: label for name, label in said.items() if name in sent}
    waiting = {row[0] for row in worker.bench.intake.join_references().waiting}
    assert waiting == said.keys() - sent
    assert worker.bench.dead() == ()


@pytest.fixture(scope="module")
def pictures(png: Callable[..., bytes]) -> dict[str, bytes]:
    return {name: png(number, (20, 20)) for number, name in enumerate("abcdef")}
