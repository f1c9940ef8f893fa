"""The faults: each is done to an installation that runs, and every message is counted.

It knows nothing of pytest or of tables. Each scenario sends messages, strikes, counts, lets the installation
recover, and counts again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx

from adaptsvc.checkpoint import NAME, PREVIOUS
from adaptsvc.checkpoint import load as load_checkpoint
from streams.errors import LogUnavailableError
from streams.message import Message, NewMessage, Position, TopicPartition
from tests.conftest import CLASSES
from tests.faults.asker import PATIENCE_S, RAW
from tests.faults.case import Case, Outcome, trying
from tests.faults.site import ROUND_IMAGES, Site
from tests.faults.sites import Scaled

DAY_S, HOUR_S = 86_400.0, 3600.0
LARGE = b"x" * 2**22  # no disk that is full has room for it
IN_FLIGHT_S = 2.0


def nothing(site: Site) -> Outcome:
    """No fault: what the others are held against."""
    with trying(site, "none") as case:
        site.keep_working()
        case.send()
        case.settle()
        return case.outcome()


def worker_killed(site: Site, where: str) -> Outcome:
    """kill -9 of the worker at a moment of `MOMENTS`, and another one in its place."""
    with trying(site, f"worker killed: {where}") as case:
        site.doom(where)
        site.keep_working()
        case.send()
        site.wait_killed()
        site.spare()
        case.strike()
        site.start_worker()
        case.settle()
        return case.outcome()


def checkpoint_cut(site: Site) -> Outcome:
    """The last checkpoint is cut short; the worker goes on from the one before."""

    def cut(folder: Path) -> None:
        file = folder / NAME
        file.write_bytes(file.read_bytes()[:-20])

    return _checkpoint_harmed(site, "last checkpoint cut", cut)


def checkpoints_gone(site: Site) -> Outcome:
    """Neither checkpoint can be read; the worker goes on from what the stream remembers."""

    def flip(folder: Path) -> None:
        for name in (NAME, PREVIOUS):
            data = bytearray((folder / name).read_bytes())
            data[len(data) // 2] ^= 1
            (folder / name).write_bytes(bytes(data))

    return _checkpoint_harmed(site, "both checkpoints altered", flip)


def _checkpoint_harmed(site: Site, fault: str, harm: Callable[[Path], None]) -> Outcome:
    with trying(site, fault) as case:
        site.keep_working()
        case.send(5)
        site.wait(lambda: case.count().read == 6, "all is in the checkpoint", case.count)
        site.worker.kill()
        site.wait_killed()
        harm(site.working.checkpoint)
        case.strike()
        site.start_worker()
        case.send(ROUND_IMAGES - 5)
        case.settle()
        return case.outcome()


def service_process_killed(site: Site) -> Outcome:
    """kill -9 of one of two service processes."""
    with trying(site, "one of two service processes killed") as case:
        site.keep_working()
        case.send()
        assert site.service is not None
        parent = site.service.process.pid
        victim, *others = _service_processes(parent)
        os.kill(victim, signal.SIGKILL)
        case.strike()
        site.wait(
            lambda: len({*_service_processes(parent)} - {victim}) > len(others),
            "another process takes its place",
        )
        case.settle()
        return case.outcome()


def service_killed(site: Site) -> Outcome:
    """kill -9 of the service while it takes labels, and a start as by its supervisor."""
    with trying(site, "service killed, started again") as case:
        site.keep_working()
        case.send(unusable=0)
        case.settle()
        names = [row.image_id for row in load_checkpoint(site.working.checkpoint).window]
        acknowledged = [name for name in names[:8] if _give_label(site, name)]
        assert site.service is not None
        os.kill(site.service.process.pid, signal.SIGKILL)
        site.service.process.wait()
        site.wait(site.is_gone, "what the service had started ends too")
        case.refuse(not _give_label(site, names[8]))
        case.sent(_labels_of(site, acknowledged))
        case.strike()
        site.start_service()
        case.settle()
        return case.outcome()


def disk_full(site: Site) -> Outcome:
    """No room is left as a version is about to be published; then there is."""
    filler = site.settings.home.parent / "filler"
    with trying(site, "disk full") as case:
        site.doom("the guard", "stop")
        site.keep_working()
        case.send()
        site.wait_stopped()
        _fill(filler)
        try:
            site.log.append("images.unlabeled", [NewMessage("large", LARGE)])
        except LogUnavailableError:
            case.refuse(1)
        site.resume(site.worker)
        site.wait(lambda: "bytes free" in site.said(), "the worker says that the disk is full")
        _ask_what_was_not_asked(site)
        case.strike()
        filler.unlink()
        case.settle()
        assert site.worker.is_alive(), "it goes on by itself"
        return case.outcome()


def clock_jumps(site: Site) -> Outcome:
    """The worker's clock goes ahead a day, then more than images are kept, then back: each in mid-round."""
    with trying(site, "clock: +1 day, +8 days, -1 hour") as case:
        site.keep_working()
        for ahead_s in (DAY_S, 8 * DAY_S, -HOUR_S):
            site.doom("a step", "stop")
            case.send()
            site.wait_stopped()
            site.set_clock(ahead_s)
            case.send()
            case.strike()
            site.resume(site.worker)
            case.settle()
        site.set_clock(0.0)
        return case.outcome()


def two_workers(scaled: Scaled) -> Outcome:
    """A worker sleeps through its lease as it publishes; another machine's takes over, the first wakes up."""
    site = scaled.site
    with trying(site, "two workers, the first asleep") as case:
        site.doom("publishing", "stop")
        site.keep_working()
        first = site.worker
        case.send()
        site.wait_stopped()
        site.spare()
        site.start_worker({"home": str(site.folder / "second")})
        case.strike()
        case.settle()
        promoted = site.state.pointer.read()
        site.resume(first)
        site.wait(lambda: first.exitcode == 1, "the first ends, and says why")
        assert "expected to hold it while writing" in site.said()
        assert site.state.pointer.read() == promoted, "the first wrote nothing"
        return case.outcome()


def broker_killed(scaled: Scaled) -> Outcome:
    """kill -9 of the broker in mid-round; it comes back, and the worker is started again where it ended."""
    site = scaled.site
    with trying(site, "broker killed") as case:
        site.doom("a step", "stop")
        site.keep_working()
        case.send()
        site.wait_stopped()
        scaled.broker.wait_saved()
        case.strike()
        scaled.broker.kill()
        case.send(1, unusable=0)
        site.resume(site.worker)
        site.worker.join(IN_FLIGHT_S)
        scaled.broker.start()
        site.wait(lambda: _settles(site, case), "all is settled")
        return case.outcome()


def redis_killed(scaled: Scaled) -> Outcome:
    """kill -9 of Redis just before a version is published; it comes back with its data."""
    site = scaled.site
    with trying(site, "Redis killed") as case:
        site.doom("the guard", "stop")
        site.keep_working()
        case.send()
        site.wait_stopped()
        scaled.redis.kill()
        site.resume(site.worker)
        site.wait(lambda: "the round starts again" in site.said(), "the round is given up")
        case.strike()
        scaled.redis.start()
        case.settle()
        assert site.worker.is_alive(), "it goes on by itself"
        return case.outcome()


def _settles(site: Site, case: Case) -> bool:
    """As a supervisor does: start the worker again where it ended."""
    site.keep_working()
    try:
        return case.is_settled()
    except LogUnavailableError:  # the client has not noticed yet that the broker is back
        return False


def _ask_what_was_not_asked(site: Site) -> None:
    """Requests whose metrics are new, and take room where there is none."""
    url = site.url
    answers = [
        httpx.post(f"{url}/v1/classify", content=b"no image", headers=RAW, timeout=PATIENCE_S),
        httpx.get(f"{url}/v1/unknown", timeout=PATIENCE_S),
        *(
            httpx.get(url + path, timeout=PATIENCE_S)
            for path in ("/v1/model", "/v1/versions", "/metrics")
        ),
    ]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [400, 404, 200, 200, 200], statuses


def _fill(file: Path) -> None:
    """Leave no byte on its disk."""
    with file.open("wb", buffering=0) as out:
        for size in (2**16, 1):
            try:
                while out.write(b"x" * size):
                    pass
            except OSError:
                continue


def _service_processes(parent: int) -> list[int]:
    """Those that answer requests: the children of the service that have loaded the runtime."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            family = (folder / "stat").read_text().rpartition(")")[2].split()
            maps = (folder / "maps").read_text()
        except OSError:
            continue
        if int(family[1]) == parent and "onnxruntime" in maps:
            found.append(int(folder.name))
    return sorted(found)


def _give_label(site: Site, name: str) -> bool:
    """Whether the service acknowledged a label."""
    said = {"image_id": name, "label": CLASSES[0]}
    try:
        return httpx.post(site.url + "/v1/feedback", json=said, timeout=30).status_code == 202
    except httpx.TransportError:
        return False


def _labels_of(site: Site, names: list[str]) -> list[Position]:
    """Where the acknowledged labels lie; one that is not there is an AssertionError."""
    topic = "images.labeled"
    found: dict[str, Message] = {}
    for number in range(4):
        for message in site.log.read(TopicPartition(topic, number), offset=0, limit=1000):
            found[message.key] = message
    missing = [name for name in names if name not in found]
    assert not missing, f"the service acknowledged labels that are not in the log: {missing}"
    return [Position(found[name].topic_partition, found[name].offset) for name in names]
