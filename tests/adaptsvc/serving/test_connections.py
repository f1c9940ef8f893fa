"""Claims about what a connection may send before there is a request: a real uvicorn, raw sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from adaptsvc.serving.connections import HEAD_BYTES, Connection, share_connections

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
