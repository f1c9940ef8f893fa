"""Claims about candidates on live images, with real processes: two services and a worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adaptsvc.client import Client, Options
from adaptsvc.client.reports import History
from adaptsvc.shadow_record import Report
from adaptsvc.state import open_state
from streams.message import NewMessage, TopicPartition
from tests.system import System, system

__all__ = ["system"]  # the fixture
pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]
IMAGES, ROUND_IMAGES, PROCESSES, WAIT_S = 32, 16, 2, 240
SHADOW = {
    "SHADOW__FRACTION": "1",
    "SHADOW__MIN_IMAGES": str(IMAGES),
    "SHADOW__MIN_AGREEMENT": "0",
    "SHADOW__MAX_CONFIDENCE_SHIFT": "1",
    "SHADOW__MAX_LATENCY_RATIO": "1000",  # a busy machine's times say nothing
    "SERVE__SLOW_S": "60",
    "GUARD__WINDOW_INFORMATION": "0",
    "GUARD__AGREEMENT": "0",
    "GUARD__MARGINAL_ENTROPY_KEPT": "0",
}
Png = Callable[[int], bytes]
promoting = {"SHADOW__MIN_AGREEMENT": "0.5", "LEARN__LEARNING_RATE": "0.0001"}
# Wide steps, and no room at all: whatever was learned shows in the confidence.
refusing = {"SHADOW__MAX_CONFIDENCE_SHIFT": "0", "LEARN__LEARNING_RATE": "1"}


class Trial:
    """Two services and a worker that tries what it learns, and a client that asks."""

    def __init__(self, system: System, png: Png, own: dict[str, str]) -> None:
        self.system, self._png = system, png
        system.environment |= {f"ADAPTSVC_{key}": value for key, value in {**SHADOW, **own}.items()}
        serve = system.settings.serve.model_copy(update={"workers": PROCESSES})
        system.settings = system.settings.model_copy(update={"serve": serve})
        system.start_service()
        system.start_worker()
        system.wait(system.ready, "the service is ready", WAIT_S)
        self.state = open_state(system.settings)

    def history(self) -> History:
        with Client(self.system.url, Options(timeout_s=60)) as client:
            return client.versions()

    def learn(self) -> None:
        """A round's worth of images on the stream, until both processes have its candidate ready."""
        log = self.system.log()
        log.append(
            "images.unlabeled",
            [NewMessage(f"i{n}", self._png(n)) for n in range(ROUND_IMAGES)],
        )
        log.close()

        def ready() -> bool:
            found = [
                Report.model_validate_json(each)
                for each in self.state.shadow.reports.read().values()
            ]
            return [(each.version, each.problem) for each in found] == [(1, "")] * PROCESSES

        self.system.wait(ready, "both processes have the candidate", WAIT_S)

    def ask_until_decided(self) -> list[int]:
        """Live images, each by a new connection; the versions that answered."""
        versions: list[int] = []

        def decided() -> bool:
            answer = self.system.classify(self._png(100 + len(versions)))
            assert answer.status_code == 200
            versions.append(answer.json()["model_version"])
            shadow = self.history().shadow
            assert shadow is not None
            return shadow.last is not None

        self.system.wait(decided, "the worker has decided", WAIT_S)
        return versions

    def events(self) -> str:
        log = self.system.log()
        found = log.read(TopicPartition("model.events", 0), offset=0, limit=100)
        log.close()
        return " ".join(message.value.decode() for message in found)


@pytest.mark.parametrize("tiny_directory", ["vit", "resnet"], indirect=True)
def test_a_candidate_is_tried_unseen_on_the_images_of_both_processes_and_then_serves(
    system: System, png: Png
) -> None:
    trial = Trial(system, png, promoting)
    trial.learn()
    history = trial.history()
    assert (history.serving, [each.shadow for each in history.versions]) == (0, [None, "shadow"])
    versions = trial.ask_until_decided()
    assert versions[:IMAGES] == [0] * IMAGES, "the candidate's answers go to nobody"
    shadow = trial.history().shadow
    assert shadow is not None
    assert shadow.last is not None
    assert (shadow.trial, shadow.last.version, shadow.last.outcome) == (None, 1, "promoted")
    assert shadow.last.figures.images >= IMAGES
    assert (shadow.last.figures.agreement or 0) >= 0.5
    assert trial.state.shadow.found(1)[0].images >= shadow.last.figures.images
    system.wait(lambda: system.serving() == 1, "the candidate serves")
    assert system.classify(png(0)).json()["model_version"] == 1
    system.wait(lambda: '"shadow_promoted"' in trial.events(), "the promotion is an event")


@pytest.mark.parametrize("tiny_directory", ["resnet"], indirect=True)
def test_a_candidate_that_is_beyond_a_limit_on_live_images_never_serves(
    system: System, png: Png
) -> None:
    trial = Trial(system, png, refusing)
    trial.learn()
    versions = trial.ask_until_decided()
    assert set(versions) == {0}
    history = trial.history()
    assert history.shadow is not None
    assert history.shadow.last is not None
    assert history.shadow.last.outcome == "refused"
    assert history.shadow.last.reasons == ("shadow_confidence",)
    assert history.shadow.last.figures.confidence_shift != 0
    assert [each.reasons for each in history.refused] == [("shadow_confidence",)]
    assert (history.serving, system.serving()) == (0, 0)
    system.wait(lambda: '"shadow_refused"' in trial.events(), "the refusal is an event")
