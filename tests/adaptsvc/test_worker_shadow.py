"""Claims about rounds whose version is tried on live images first, and about those where nothing is tried."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from adaptsvc.bootstrap import build_worker
from adaptsvc.config import Settings
from adaptsvc.metrics import Observer
from adaptsvc.shadow_record import Report
from adaptsvc.shadow_section import ShadowSettings
from adaptsvc.state import State, open_state
from adaptsvc.streaming import EVENTS, IMAGES, open_log
from adaptsvc.trust.shadow import Tally
from adaptsvc.versions.shadow_desk import ShadowDesk
from adaptsvc.worker import Worker
from streams.message import NewMessage, TopicPartition
from tests.adaptsvc.worker_bench import drain, pictures

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True),
]
Png = Callable[[int], bytes]


class Untouchable:
    """Whoever looks at it fails."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


def learned(settings: Settings, state: State, png: Png) -> Worker:
    """A worker after its first round."""
    assert state.lease.acquire()
    worker = build_worker(settings, Observer(), threading.Event(), state=state)
    worker.restore()
    log = open_log(settings)
    log.append(IMAGES, [NewMessage(n, data) for n, data in pictures(png, 16).items()])
    drain(worker, 1000.0)
    return worker


def events(settings: Settings) -> str:
    found = open_log(settings).read(TopicPartition(EVENTS, 0), offset=0, limit=100)
    return " ".join(message.value.decode() for message in found)


def test_where_nothing_is_to_be_tried_a_round_promotes_and_asks_nobody_of_candidates(
    prepared: Settings, png: Png
) -> None:
    state = replace(open_state(prepared), shadow=cast(ShadowDesk, Untouchable()))
    learned(prepared, state, png)
    assert state.pointer.read().version == 1
    assert not prepared.shadow_board.exists()


@pytest.mark.parametrize(
    ("agreed", "event", "serving", "accepted"),
    [(5, "shadow_promoted", 1, 1), (1, "shadow_refused", 0, 0)],
)
def test_a_round_proposes_its_version_and_what_the_services_find_decides(
    prepared: Settings, png: Png, agreed: int, event: str, serving: int, accepted: int
) -> None:
    shadow = ShadowSettings(fraction=0.5, min_images=5)
    settings = prepared.model_copy(update={"shadow": shadow})
    state = open_state(settings)
    worker = learned(settings, state, png)
    assert state.pointer.read().version == 0
    assert '"event": "candidate"' in events(settings)
    worker.run_once(1010.0)
    assert state.shadow.read().versions == {1: "shadow"}
    state.shadow.tell("a", Report(version=1, tally=Tally(images=5, agreed=agreed)))
    worker.run_once(1020.0)
    assert state.pointer.read().version == serving
    assert f'"event": "{event}"' in events(settings)
    patience = worker._rounds.patience
    assert (patience.accepted, patience.refusals) == (accepted, 1 - accepted)
