"""What a connection may send before there is a request, and which process gets it.

A request can be limited where it is answered (`gate`, `door`); a head that never ends never becomes one.
uvicorn has no limit for either, and BentoML lets nobody choose its protocol. All processes accept from one
socket; asyncio would have the first to wake take every connection that waits, here the one with the fewest
takes the next. Knows nothing of images.
"""

from __future__ import annotations

import asyncio
from asyncio.selector_events import BaseSelectorEventLoop
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from adaptsvc.serving.roster import Roster

HEAD_BYTES = 64 * 1024
ACCEPTED_AT_ONCE = 1
LEFT_TO_OTHERS_S, LOOK_S = 0.01, 0.001  # how long connections wait for the process with the fewest
UNFIT = 10  # and how many times as long for any other, before one that cannot answer takes them
CHUNKED = 6  # bytes on the wire for one byte of body, in chunks as small as there are


class Together:
    """A transport that sends what is written in one turn of the loop at once: a head with its body.

    uvicorn writes them one after the other, which wakes a client for the head alone.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send this, at the end of the turn at the latest."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    def flush(self) -> None:
        """Send what was written."""
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()

    def close(self) -> None:
        """Send what was written, then close."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(HttpToolsProtocol):
    """uvicorn's protocol over llhttp's parser, with an end to what is read and waited for.

    `head_s` is the time for a head, from the connection, the answer before it or its first byte, the last
    of them; then the connection is closed, with a 408 if a part had come. More than `HEAD_BYTES` of a
    request beside its body (target, headers, chunk framing, trailers) is a 431. What one read of the
    socket brings at most (256 KiB) can come on top. `roster` is told of every connection; `is_fit` says
    whether this process can answer at all: one that refuses at once would have the fewest.
    """

    head_s: ClassVar[float] = 10.0
    roster: ClassVar[Roster | None] = None
    is_fit: ClassVar[Callable[[], bool]] = staticmethod(lambda: True)

    _in_head = False
    _wire_bytes = 0  # of this request, so far
    _body_bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._counted = self.roster  # at once: the next may be accepted before it is made
        if self._counted is not None:
            self._counted.add(1)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody connected."""
        super().connection_made(cast(Any, Together(transport, self.loop)))
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Somebody left, or was sent away."""
        self._stop_waiting()
        if self._counted is not None:
            self._counted.add(-1)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A part of a request, or of several."""
        if self.timeout_keep_alive_task is not None:  # idle until now
            self._expect_head()
        self._wire_bytes += len(data)
        super().data_received(data)
        if self._wire_bytes > HEAD_BYTES + CHUNKED * self._body_bytes:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._wire_bytes = self._body_bytes = 0
        self._in_head = True
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Now there is a request, which others limit."""
        self._stop_waiting()
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        """The next request is waited for from here."""
        cast(Together, self.transport).flush()
        if self._timer is not None:
            self._stop_waiting()
            self._expect_head()
        super().on_response_complete()

    def _expect_head(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self._late)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect_head()  # it waits for us: a request before this one is being answered
        else:
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._in_head:
            rest = b"content-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(b"HTTP/1.1 " + status + b"\r\n" + rest)
        self.transport.close()


def limit_connections() -> None:
    """Have servers that are started from now on in this process use it."""
    cast(Any, auto).AutoHTTPProtocol = Connection


def share_connections() -> None:
    """Have loops of this process leave connections to the process with the fewest."""
    cast(Any, BaseSelectorEventLoop)._accept_connection = _accept_in_turn


_accept = cast(Any, BaseSelectorEventLoop)._accept_connection


def _accept_in_turn(loop: Any, *given: Any) -> None:
    """As asyncio, but one a turn, and another process first where it has fewer.

    `given` is asyncio's: protocol, socket, TLS, server, how many at once, and timeouts.
    """
    if _is_next():
        _accept_one(loop, *given)
    else:
        loop.remove_reader(given[1].fileno())
        patience_s = LEFT_TO_OTHERS_S * (1 if Connection.is_fit() else UNFIT)
        _look_again(loop, loop.time() + patience_s, given)


def _look_again(loop: Any, deadline: float, given: Sequence[Any]) -> None:
    """Accept again when it is our turn, or whoever should is too busy."""
    if given[1].fileno() < 0:  # the server was closed meanwhile
        return
    if loop.time() < deadline and not _is_next():
        loop.call_later(LOOK_S, _look_again, loop, deadline, given)
    else:
        loop._start_serving(*given)
        _accept_one(loop, *given)  # it stops again where there are too many files


def _is_next() -> bool:
    roster = Connection.roster
    return roster is None or (Connection.is_fit() and roster.has_fewest())


def _accept_one(loop: Any, *given: Any) -> None:
    _accept(loop, *given[:4], ACCEPTED_AT_ONCE, *given[5:])
