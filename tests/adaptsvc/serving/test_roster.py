"""Claims about how connections are shared: real processes over one file, and over one socket."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from adaptsvc.serving import roster
from adaptsvc.serving.roster import Roster

PATIENCE_S = 60
JOIN = "import sys; from pathlib import Path; from adaptsvc.serving.roster import Roster\n"
HOLD = "ours = Roster.join(Path(sys.argv[1])); ours.add(int(sys.argv[2])); print('in', flush=True); input()"
SERVE = """
import asyncio, os, socket, sys
from pathlib import Path
import uvicorn
from adaptsvc.serving import connections
from adaptsvc.serving.roster import Roster

async def who(scope, receive, send):
    body = str(os.getpid()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

connections.LEFT_TO_OTHERS_S = float(sys.argv[3])
connections.UNFIT = 1000
connections.Connection.is_fit = staticmethod(lambda: sys.argv[4] == "fit")
connections.share_connections()
connections.Connection.roster = Roster.join(Path(sys.argv[1]))
listener = socket.socket(fileno=int(sys.argv[2]))
config = uvicorn.Config(who, http=connections.Connection, loop="asyncio", lifespan="off", log_level="error")
print("in", flush=True)
uvicorn.Server(config).run(sockets=[listener])
"""


@contextmanager
def process(*command: str, files: tuple[int, ...] = ()) -> Iterator[int]:
    """A Python process that has said that it is there."""
    child = subprocess.Popen(
        [sys.executable, "-c", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=files,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "in\n"
        yield child.pid
    finally:
        child.kill()
        child.communicate(timeout=PATIENCE_S)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "connections"


def test_whoever_is_alone_has_the_fewest(file: Path) -> None:
    ours = Roster.join(file)
    ours.add(3)
    assert ours.has_fewest()
    assert ours.connections == 3


def test_others_that_run_are_seen_with_what_they_have(file: Path) -> None:
    ours = Roster.join(file)
    ours.add(3)
    with process(JOIN + HOLD, str(file), "3"):
        assert ours.has_fewest()  # as few as anybody
        ours.add(1)
        assert not ours.has_fewest()
        ours.add(-2)
        assert ours.has_fewest()


def test_whoever_is_gone_does_not_count_and_its_place_is_taken(file: Path) -> None:
    with process(JOIN + HOLD, str(file), "0") as first:
        ours = Roster.join(file)
        ours.add(1)
        assert not ours.has_fewest()
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)
    assert ours.has_fewest()
    with process(JOIN + HOLD, str(file), "0") as next_one:
        numbers = memoryview(file.read_bytes()).cast("q")
        assert numbers[:5].tolist() == [next_one, 0, os.getpid(), 1, 0]


def test_one_process_too_many_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "PLACES", 1)
    with process(JOIN + HOLD, str(file), "0"), pytest.raises(OSError, match="places for 1"):
        Roster.join(file)


@pytest.mark.parametrize(
    ("first", "patience_s", "shares"), [("fit", 5.0, [4, 4]), ("unfit", 0.1, [8])]
)
def test_connections_opened_at_once_are_shared_equally_by_who_can_answer(
    file: Path, first: str, patience_s: float, shares: list[int]
) -> None:
    """As equally whatever else the machine does: a process waits long for one that can answer."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        number = listener.fileno()
        for state in (first, "fit"):
            told = (str(file), str(number), str(patience_s), state)
            stack.enter_context(process(SERVE, *told, files=(number,)))
        host, taken = listener.getsockname()
        clients = [HTTPConnection(host, taken, timeout=PATIENCE_S) for _ in range(8)]
        for client in clients:
            stack.callback(client.close)
            client.connect()
        for client in clients:
            client.request("GET", "/")
        answers = Counter(client.getresponse().read() for client in clients)
    assert sorted(answers.values()) == shares
