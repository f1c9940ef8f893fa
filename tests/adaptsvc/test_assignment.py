"""Claims about a worker that is asked for other classes while it runs, on files and on Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from adaptsvc.bootstrap import build_worker, prepare
from adaptsvc.checkpoint import load as load_checkpoint
from adaptsvc.clip.prompt import class_embeddings
from adaptsvc.config import Settings
from adaptsvc.metrics import Observer
from adaptsvc.rounds import StopRound
from adaptsvc.sections import StateSettings
from adaptsvc.state import State, open_state
from adaptsvc.trust.patience import Patience
from adaptsvc.types import Task
from adaptsvc.versions.task_desk import TaskDesk
from adaptsvc.versions.tasks import Asked, Wanted
from adaptsvc.worker import Worker
from streams.message import NewMessage, TopicPartition
from streams.sqlite import SqliteLog
from streams.topics import load_topics
from tests.adaptsvc.worker_bench import one_colour, teaching
from tests.conftest import CLASSES

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True),
]
PROMPT = "a photo of a {}."
OTHERS = ("dog", "lorry", "cat", "ship")
PATIENCE_S = 200.0


def eventually(holds: Callable[[], bool]) -> None:
    """Whoever looks twice a second sees nothing in between."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Plant:
    """A worker on the stream and the state of its settings, and a person's view of the same."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.person = open_state(settings)
        self.desk = TaskDesk(self.person.store, self.person.pointer, self.person.tasks)
        self.log = SqliteLog(settings.stream_file, load_topics())
        self.worker = self.start()

    def start(self) -> Worker:
        """A worker that holds the lease."""
        self.state: State = open_state(self.settings, fenced=True)
        assert self.state.lease.acquire()
        worker = build_worker(self.settings, Observer(), threading.Event(), state=self.state)
        worker.restore()
        return worker

    def end(self) -> None:
        """As a killed one would: without a checkpoint."""
        self.worker._consumer.close()
        self.worker._parts.log.close()
        self.state.lease.release()

    def restart(self, settings: Settings | None = None) -> None:
        """Another process, maybe with other settings."""
        self.end()
        self.settings = settings or self.settings
        self.worker = self.start()

    def run(self, until: Callable[[], bool]) -> None:
        """Turns of the loop until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < deadline
            self.worker.run_once(time.time())

    def ask(self, *classes: str, prompt: str = PROMPT) -> Asked:
        """Ask, and have the worker answer."""
        assert self.desk.ask(Wanted(classes=classes, prompt=prompt))
        self.run(lambda: self.desk.asked().waiting is None)
        return self.desk.asked()

    @property
    def task(self) -> Task:
        """What the worker works for."""
        return self.worker._settings.task

    @property
    def serving(self) -> int | None:
        return self.person.pointer.read().version

    def teach(self, count: int) -> None:
        """Labeled pictures, one colour per class."""
        messages = [
            NewMessage(f"taught-{k}", one_colour(k), {"label": CLASSES[k % 3].encode()})
            for k in range(count)
        ]
        self.log.append("images.labeled", messages)

    def show(self, png: Callable[[int], bytes], count: int, start: int = 0) -> None:
        messages = [NewMessage(f"image-{k}", png(k)) for k in range(start, start + count)]
        self.log.append("images.unlabeled", messages)


@pytest.fixture
def open_plant(prepared: Settings) -> Iterator[Callable[..., Plant]]:
    plants: list[Plant] = []

    def make(settings: Settings = prepared) -> Plant:
        plants.append(Plant(settings))
        return plants[-1]

    yield make
    for plant in plants:
        plant.end()
        plant.log.close()


@pytest.fixture
def plant(open_plant: Callable[..., Plant]) -> Plant:
    return open_plant()


@pytest.mark.parametrize("kind", ["file", "redis"])
def test_the_classes_asked_for_serve_as_a_zero_shot_version_and_rounds_go_on_from_it(
    open_plant: Callable[..., Plant],
    prepared: Settings,
    png: Callable[[int], bytes],
    request: pytest.FixtureRequest,
    kind: str,
) -> None:
    if kind == "redis":
        state: StateSettings = request.getfixturevalue("redis_settings")
        lasting = state.model_copy(update={"lease_s": 600.0})  # nothing prolongs it here
        prepared = prepared.model_copy(update={"state": lasting})
    plant = open_plant(prepared)
    before = plant.serving
    answer = plant.ask(*OTHERS).answer
    assert answer is not None
    assert (answer.version, answer.reason) == (plant.serving, "")
    version = plant.person.store.load(plant.serving or 0)
    assert plant.serving != before
    assert (version.manifest.classes, version.manifest.parent) == (OTHERS, None)
    assert (version.manifest.calibration.temperature, version.manifest.ood.threshold) == (1.0, None)
    expected = class_embeddings(plant.worker._parts.learner.clip, OTHERS, PROMPT).numpy()
    np.testing.assert_allclose(version.head.class_embeddings, expected, atol=1e-6)
    assert plant.task == Task(OTHERS, PROMPT)
    plant.show(png, 16)
    plant.run(lambda: plant.serving != version.manifest.id)
    learned = plant.person.store.load(plant.serving or 0)
    assert (learned.manifest.parent, learned.manifest.classes) == (version.manifest.id, OTHERS)
    assert learned.head.class_embeddings.shape == (4, 32)
    assert learned.manifest.ood.threshold is not None


def test_images_stay_and_their_zero_shot_answers_are_those_of_the_new_classes(
    plant: Plant, png: Callable[[int], bytes]
) -> None:
    plant.show(png, 8)
    plant.run(lambda: len(plant.worker._intake.window) == 8)
    before = [sample.image_id for sample in plant.worker._intake.window.samples]
    plant.ask(*OTHERS)
    samples = plant.worker._intake.window.samples
    assert [sample.image_id for sample in samples] == before
    pixels = np.stack([sample.pixels for sample in samples])
    temperature = plant.worker._settings.learn.weight_temperature
    expected, weights = plant.worker._parts.learner.zero_shot(pixels, temperature)
    assert expected.shape == (8, 4)
    np.testing.assert_allclose([s.zero_shot for s in samples], expected, atol=1e-6)
    np.testing.assert_allclose([s.weight for s in samples], weights, atol=1e-6)
    assert plant.worker._intake.new_images == 8


def test_labels_stay_by_name_and_those_of_no_class_any_more_become_dead_letters(
    open_plant: Callable[..., Plant], prepared: Settings
) -> None:
    plant = open_plant(teaching(prepared, tune={"labels_min": 1000}))
    plant.teach(9)
    plant.log.append("images.labeled", [NewMessage("unseen", b"", {"label": b"car"})])
    plant.run(lambda: len(plant.worker._intake.labels) == 9)
    plant.ask(*OTHERS)
    kept = {
        sample.image_id: OTHERS[sample.target] for sample in plant.worker._intake.labels.samples
    }
    assert kept == {f"taught-{k}": CLASSES[k % 3] for k in range(9) if CLASSES[k % 3] != "car"}
    assert plant.worker._intake.new_labels == 6
    dead = plant.log.read(TopicPartition("images.deadletter", 0), offset=0, limit=100)
    assert sorted(m.key for m in dead) == ["taught-2", "taught-5", "taught-8", "unseen"]
    assert all(m.headers["label"] == b"car" for m in dead)
    assert {m.headers["reason"] for m in dead} == {b"UnknownClassError"}


def test_a_worker_killed_after_the_version_serves_takes_the_new_classes_up_again(
    plant: Plant, png: Callable[[int], bytes]
) -> None:
    plant.show(png, 8)
    plant.run(lambda: len(plant.worker._intake.window) == 8)
    plant.worker._checkpoint(time.time())
    before = load_checkpoint(plant.settings.checkpoint)
    assert before.task == Task(CLASSES, PROMPT).digest
    plant.desk.ask(Wanted(classes=OTHERS))
    eventually(lambda: plant.worker._parts.task(plant.task) == Task(OTHERS, PROMPT))
    plant.restart()  # the checkpoint is one for the old classes
    assert load_checkpoint(plant.settings.checkpoint).task == before.task
    assert plant.task == Task(OTHERS, PROMPT)
    assert {len(s.zero_shot) for s in plant.worker._intake.window.samples} == {4}
    assert len(plant.worker._intake.window) == 8


def test_refusals_counted_for_other_classes_are_forgotten(plant: Plant) -> None:
    plant.worker._rounds.patience = Patience(refusals=2, freezes=1)
    plant.ask(*OTHERS)
    assert plant.worker._rounds.patience == Patience()


def test_a_request_nobody_took_is_taken_by_the_next_worker(plant: Plant) -> None:
    plant.end()
    assert plant.desk.ask(Wanted(classes=OTHERS))
    assert plant.desk.asked().stage == "waiting"
    plant.worker = plant.start()
    plant.run(lambda: plant.desk.asked().stage == "done")
    assert plant.task.classes == OTHERS


def test_asking_for_what_serves_is_nothing_to_do_and_takes_back_what_waits(plant: Plant) -> None:
    assert not plant.desk.ask(Wanted(classes=CLASSES, prompt=PROMPT))
    assert plant.desk.ask(Wanted(classes=OTHERS))
    answer = plant.ask(*CLASSES).answer
    assert answer is not None
    assert (answer.version, plant.serving, plant.person.store.ids()) == (0, 0, [0])


@pytest.mark.parametrize(
    ("classes", "prompt", "reason"),
    [
        (("cat", " ".join(["dog"] * 40)), PROMPT, "tokens"),
        (OTHERS, " ".join(["x"] * 60) + " {}", "x"),
    ],
)
def test_what_the_text_tower_does_not_take_is_refused_and_the_old_classes_go_on(
    plant: Plant, classes: tuple[str, ...], prompt: str, reason: str
) -> None:
    answer = plant.ask(*classes, prompt=prompt).answer
    assert answer is not None
    assert (answer.version, plant.serving) == (None, 0)
    assert reason in answer.reason
    assert plant.task == Task(CLASSES, PROMPT)


def test_while_a_person_holds_what_serves_other_classes_are_refused(plant: Plant) -> None:
    assert plant.desk.ask(Wanted(classes=OTHERS))
    plant.person.pointer.force(0, hold=True)
    plant.run(lambda: plant.desk.asked().stage == "refused")
    answer = plant.desk.asked().answer
    assert answer is not None
    assert "versions activate 0" in answer.reason
    assert plant.person.store.ids() == [0]


def test_going_back_to_a_version_of_other_classes_takes_the_worker_along_and_lasts(
    plant: Plant, png: Callable[[int], bytes]
) -> None:
    plant.ask(*OTHERS)
    plant.person.pointer.force(0)
    plant.run(lambda: plant.task.classes == CLASSES)
    plant.restart()
    assert (plant.serving, plant.task.classes) == (0, CLASSES)
    plant.show(png, 16)
    plant.run(lambda: plant.serving not in (0, 1))
    assert plant.person.store.manifest(plant.serving or 0).parent == 0


def test_settings_that_change_later_than_a_request_count_more(plant: Plant) -> None:
    plant.ask(*OTHERS)
    plant.restart()
    assert plant.task.classes == OTHERS, "the same settings change nothing"
    plant.restart(plant.settings.working_for(Task(("ship", "frog"), PROMPT)))
    assert plant.task == Task(("ship", "frog"), PROMPT)
    assert plant.person.store.manifest(plant.serving or 0).classes == ("ship", "frog")


def test_a_round_gives_way_to_a_request(plant: Plant, png: Callable[[int], bytes]) -> None:
    plant.show(png, 15)
    plant.run(lambda: len(plant.worker._intake.window) == 15)
    plant.desk.ask(Wanted(classes=OTHERS))
    eventually(plant.worker._parts.is_asked)
    with pytest.raises(StopRound):
        plant.worker._between_steps()
    plant.run(lambda: plant.task.classes == OTHERS)
    assert plant.worker._rounds.count == 0


def test_requests_that_cannot_be_read_stop_nothing(plant: Plant) -> None:
    plant.settings.tasks.write_text("{")
    assert plant.worker._parts.task(plant.task) == Task(CLASSES, PROMPT)
    plant.restart()
    assert plant.task == Task(CLASSES, PROMPT)
    plant.ask(*OTHERS)
    assert plant.task.classes == OTHERS


def test_preparing_for_other_settings_is_remembered_as_such(prepared: Settings) -> None:
    assert prepare(prepared).task == prepared.task
    assert open_state(prepared).tasks.read().configured == prepared.task.digest
