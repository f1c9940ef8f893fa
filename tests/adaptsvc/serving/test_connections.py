"""Claims about what a connection may send before there is a request: a real uvicorn, raw sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from adaptsvc.serving import connections
from adaptsvc.serving.connections import HEAD_BYTES, Connection, Together, share_connections
from adaptsvc.serving.roster import Roster

PATIENCE_S = 30.0
SHORT_S = 1.0
READ_BYTES = 256 * 1024  # what one read of the socket brings at most
TURNS = 8
CHUNK = b"1\r\nx\r\n"


class Closing(asyncio.Protocol):
    """Closes what it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


async def lengths(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body, `/slow` after twice the limit of a head."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(2 * SHORT_S)
    said = str(size).encode()
    headers = [(b"content-length", str(len(said)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    config = uvicorn.Config(lengths, http=Connection, lifespan="off", ws="none", log_config=None)
    server, listener = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        listener.close()


@pytest.fixture
def client(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connected:
        yield connected


def until_closed(client: socket.socket) -> bytes:
    said = b""
    with suppress(ConnectionError):  # closed with bytes of ours unread
        while part := client.recv(2**16):
            said += part
    return said


def one_answer(client: socket.socket) -> bytes:
    said = b""
    while b"\r\n\r\n" not in said or said.endswith(b"\r\n\r\n"):
        part = client.recv(2**16)
        assert part, said
        said += part
    return said


def send_all_that_is_taken(client: socket.socket, part: bytes, times: int) -> None:
    with suppress(ConnectionError):
        for _ in range(times):
            client.sendall(part)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_s", SHORT_S)


@pytest.mark.usefixtures("short")
def test_a_connection_that_sends_nothing_is_closed_without_a_word(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        assert until_closed(client) == b""


@pytest.mark.usefixtures("short")
def test_a_head_that_drips_in_is_a_408(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        with suppress(ConnectionError):
            for _ in range(int(PATIENCE_S / 0.05)):
                client.sendall(b"a: b\r\n")
                time.sleep(0.05)
        assert until_closed(client).startswith(b"HTTP/1.1 408 ")


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("begun", "said"),
    [(b"GET / HT", b"HTTP/1.1 408 "), (b"\r\n", b"")],
    ids=["a part of a request", "an empty line"],
)
def test_the_limit_holds_for_every_request_of_a_connection(
    port: int, begun: bytes, said: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert one_answer(client).endswith(b"\r\n\r\n0")
        client.sendall(begun)
        assert until_closed(client)[: len(b"HTTP/1.1 408 ")] == said


@pytest.mark.usefixtures("short")
def test_neither_a_slow_answer_nor_a_slow_body_is_a_slow_head(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\na")
        time.sleep(1.5 * SHORT_S)
        client.sendall(b"bGET / HT")
        answer = one_answer(client)
        assert answer.startswith(b"HTTP/1.1 200 ")
        client.sendall(b"TP/1.1\r\nhost: x\r\n\r\n")
        assert one_answer(client).endswith(b"\r\n\r\n0")


@pytest.mark.parametrize(
    "begun",
    [b"GET /", b"GET / HTTP/1.1\r\na: ", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10],
    ids=["target", "value", "headers"],
)
def test_a_head_without_end_is_a_431(client: socket.socket, begun: bytes) -> None:
    client.sendall(begun)
    part = b"a: b\r\n" * 1000 if begun.endswith(b"\n") else b"a" * 6000
    send_all_that_is_taken(client, part, 400)
    assert until_closed(client).startswith(b"HTTP/1.1 431 ") or send_fails(client)


def send_fails(client: socket.socket) -> bool:
    """Where the answer was lost with the bytes that nobody read."""
    with suppress(ConnectionError):
        client.sendall(b"a")
        time.sleep(0.05)
        client.sendall(b"a")
        return False
    return True


def test_trailers_and_extensions_of_chunks_have_an_end(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    for begun, part in ((b"0\r\n", b"a: b\r\n" * 1000), (b"1;", b"a" * 6000)):
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
            client.sendall(head + begun)
            send_all_that_is_taken(client, part, 400)
            assert b"HTTP/1.1 200" not in until_closed(client)
            assert send_fails(client)


def test_bodies_have_no_end_here_in_whatever_pieces_they_come(client: socket.socket) -> None:
    client.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    pieces = (HEAD_BYTES + READ_BYTES) // len(CHUNK) * 3
    for _ in range(100):
        client.sendall(CHUNK * (pieces // 100))
    client.sendall(b"0\r\n\r\n")
    assert one_answer(client).endswith(b"\r\n\r\n" + str(pieces // 100 * 100).encode())


def test_a_head_of_many_headers_is_read(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: bcdefgh\r\n" * 4000 + b"\r\n")
    assert one_answer(client).endswith(b"\r\n\r\n0")


@pytest.mark.parametrize(("shared", "left"), [(False, 0), (True, 8)])
def test_a_loop_that_shares_leaves_connections_that_wait_to_other_processes(
    monkeypatch: pytest.MonkeyPatch, shared: bool, left: int
) -> None:
    loops = BaseSelectorEventLoop
    monkeypatch.setattr(loops, "_accept_connection", vars(loops)["_accept_connection"])
    if shared:
        share_connections()

    async def serve(listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Closing, sock=listener)
        await asyncio.sleep(0)  # a turn or two
        loop.remove_reader(listener)  # accepts no more, and closes what it has
        for _ in range(TURNS):
            await asyncio.sleep(0)
        server.close()

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=16))
        ours = stack.enter_context(listener.dup())
        for _ in range(16):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        asyncio.run(serve(listener))
        ours.setblocking(False)
        waiting = 0
        with suppress(BlockingIOError):
            while True:
                stack.enter_context(ours.accept()[0])
                waiting += 1
    assert waiting >= left
    assert shared or not waiting


class Others(Roster):
    """A process that has fewer connections, always or never."""

    def __init__(self, fewer: bool) -> None:
        self._fewer = fewer

    def has_fewest(self) -> bool:
        return not self._fewer


@pytest.mark.parametrize("closed", [False, True])
def test_what_another_process_should_take_is_taken_in_the_end(
    monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    monkeypatch.setattr(
        BaseSelectorEventLoop, "_accept_connection", connections._accept_in_turn, raising=True
    )
    monkeypatch.setattr(connections, "LEFT_TO_OTHERS_S", SHORT_S)
    monkeypatch.setattr(Connection, "roster", Others(fewer=True))
    taken: list[float] = []

    class Noting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            taken.append(time.monotonic())
            transport.close()

    async def serve(listener: socket.socket) -> None:
        server = await asyncio.get_running_loop().create_server(Noting, sock=listener)
        await asyncio.sleep(SHORT_S / 4)
        assert not taken
        if closed:
            server.close()
        await asyncio.sleep(2.5 * SHORT_S)  # one after another
        assert len(taken) == (0 if closed else 2)
        server.close()

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=16))
        for _ in range(2):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        asyncio.run(serve(listener))


def test_the_roster_is_told_of_connections_that_come_and_go(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roster = Roster.join(tmp_path / "connections")
    monkeypatch.setattr(Connection, "roster", roster)
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as first:
        first.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        one_answer(first)
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as second:
            second.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            one_answer(second)
            assert roster.connections == 2
    deadline = time.monotonic() + PATIENCE_S
    while roster.connections and time.monotonic() < deadline:
        time.sleep(0.01)
    assert roster.connections == 0


class Wire(asyncio.Transport):
    """Notes what is written and when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes] = []

    def write(self, data: Any) -> None:
        self.seen.append(bytes(data))

    def close(self) -> None:
        self.seen.append(b"closed")


def test_what_is_written_in_one_turn_is_sent_at_once_and_before_the_end() -> None:
    async def scene(wire: Wire) -> None:
        together = Together(wire, asyncio.get_running_loop())
        together.write(b"head ")
        together.write(b"body")
        assert wire.seen == []
        together.flush()
        together.write(b"later")
        await asyncio.sleep(0)
        together.write(b"last")
        together.close()
        await asyncio.sleep(0)

    wire = Wire()
    asyncio.run(scene(wire))
    assert wire.seen == [b"head body", b"later", b"last", b"closed"]


def test_an_answer_is_there_with_its_head(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert client.recv(4096).endswith(b"\r\n\r\n0")
