"""What every request passes first, whatever route it asks for: who asks, from where, and how much is sent.

It knows nothing of the routes but which need no key. It is an ASGI middleware, so that BentoML's own routes
are behind it too, and closed until it is opened with the keys of the settings. A service without keys answers
loopback alone: it looks at the address the connection came in on, so that no way of starting it makes a
difference, and at the names a browser gives, so that no web page asks in its user's name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from adaptsvc.errors import ConfigError
from adaptsvc.metrics import Denial, Observer
from adaptsvc.serving.keys import Caller, Keys
from adaptsvc.serving.requests import RequestError

log = logging.getLogger(__name__)
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

PROBES = frozenset({"/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"})
METRICS = "/metrics"
CALLER = "adaptsvc.caller"  # in the scope
HERE = Caller("localhost", "admin")  # whoever asks a service without keys
API_KEY, BEARER = "x-api-key", "bearer "
CHALLENGE = 'Bearer realm="adaptsvc"'
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Denied(RequestError):  # noqa: N818 - an answer, not an error
    """A request that goes no further, and what it is counted as."""

    def __init__(self, status: int, field: str, message: str, why: Denial) -> None:
        super().__init__(status, field, message)
        self.why = why


class Door:
    """Decides who comes in. Closed until `open`."""

    def __init__(self) -> None:
        self._keys: Keys | None = None
        self._open_paths = PROBES
        self._page: frozenset[str] = frozenset()
        self._most_bytes = 0
        self._observer = Observer()

    def open(
        self,
        keys: Keys,
        *,
        metrics_open: bool,
        most_bytes: int,
        observer: Observer,
        page: Iterable[str] = (),
    ) -> None:
        """Let in whoever has one of these keys.

        Args:
            keys: none means that loopback alone is answered.
            metrics_open: whether /metrics needs no key.
            most_bytes: the largest body of any request.
            observer: told of whom was turned away.
            page: paths of the page for people, which need no key; without keys they are for loopback, too.
        """
        self._open_paths = PROBES | {METRICS} if metrics_open else PROBES
        self._page = frozenset(page)
        self._most_bytes, self._observer = most_bytes, observer
        self._keys = keys

    def enter(self, scope: Scope) -> Caller | None:
        """Who asks; None where no key is needed and none was looked at.

        Raises:
            Denied: 401, 403, 413, or 503 while it is closed.
        """
        try:
            return self._enter(scope)
        except Denied as denied:
            self._observer.denied(denied.why)
            raise

    def require_admin(self, scope: Scope) -> Caller:
        """Who asks; refused who may not change what serves.

        Raises:
            Denied: 403.
        """
        caller: Caller | None = scope.get(CALLER)
        if caller is None or caller.role != "admin":
            self._observer.denied("role")
            message = "the API key opens data routes only; use one made with 'adaptsvc keys new --role admin'"
            raise Denied(403, "authorization", message, "role")
        return caller

    def _enter(self, scope: Scope) -> Caller | None:
        headers = _headers(scope)
        if scope["path"] in self._open_paths:
            return None
        if self._keys is None:
            raise Denied(503, "service", "the service is starting; try again shortly", "closed")
        if self._keys and scope["path"] in self._page:
            return None
        caller = self._by_key(headers) if self._keys else _by_address(scope, headers)
        _check_length(headers, self._most_bytes)
        return caller

    def _by_key(self, headers: dict[str, list[str]]) -> Caller:
        assert self._keys is not None
        given = set(_given(headers))
        if not given:
            message = "no API key came; send one as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            raise Denied(401, "authorization", message, "no_key")
        if len(given) > 1:
            raise Denied(401, "authorization", "two different API keys came; send one", "bad_key")
        if (known := self._keys.find(given.pop())) is None:
            message = "the API key is none of this service's; ask whoever runs it for one"
            raise Denied(401, "authorization", message, "bad_key")
        return Caller(known.name, known.role)


class DoorMiddleware:
    """The door before an ASGI application.

    Args:
        app: behind it.
        door: opened when the settings are known.
    """

    def __init__(self, app: App, door: Door) -> None:
        self.app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = list(_with_headers(message.get("headers", ())))
            await send(message)

        try:
            scope[CALLER] = self._door.enter(scope)
        except Denied as denied:
            await _answer(denied, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own.

    Example:
        >>> [is_loopback(host) for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "a.example")]
        [True, True, True, False, False]
    """
    bare = host.removeprefix("[").removesuffix("]").rstrip(".").lower()
    if bare == "localhost":
        return True
    try:
        address = ip_address(bare)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def check_exposure(host: str, keys: Keys) -> None:
    """Refuse to listen where strangers are without a key.

    Raises:
        ConfigError: the address is no loopback one, and there are no keys.
    """
    if not keys and not is_loopback(host):
        raise ConfigError(
            f"serve.host is {host!r}, where others can connect, and serve.keys is empty; expected a key "
            "or a loopback address: run 'adaptsvc keys new --role data' and put the line it prints into "
            "serve.keys (ADAPTSVC_SERVE__KEYS), or set serve.host to 127.0.0.1"
        )


def _by_address(scope: Scope, headers: dict[str, list[str]]) -> Caller:
    """Without keys, whoever is on this machine may do everything; a web page of somebody else may not."""
    server = scope.get("server")
    if not server or not is_loopback(str(server[0])):
        message = "this service has no API keys, so it answers connections on loopback only; set serve.keys"
        raise Denied(403, "authorization", message, "not_loopback")
    names = [_host_of(f"//{host}") for host in headers.get("host", [])]
    names += [_host_of(origin) for origin in headers.get("origin", [])]
    if foreign := [name for name in names if not is_loopback(name)]:
        message = (
            f"got the host {foreign[0][:100]!r}; without API keys only localhost is answered, so that no "
            "web page asks in its user's name: set serve.keys"
        )
        raise Denied(403, "host", message, "foreign_page")
    return HERE


def _host_of(url: str) -> str:
    with suppress(ValueError):  # what cannot be read is no loopback name
        return urlsplit(url).hostname or url
    return url


def _check_length(headers: dict[str, list[str]], most_bytes: int) -> None:
    for declared in headers.get("content-length", []):
        if declared.isdecimal() and int(declared) > most_bytes:
            message = f"got {declared} bytes, at most {most_bytes} are allowed; send less"
            raise Denied(413, "body", message, "too_large")


def _given(headers: dict[str, list[str]]) -> Iterable[str]:
    yield from (key.strip() for key in headers.get(API_KEY, []))
    for value in headers.get("authorization", []):
        if value[: len(BEARER)].lower() == BEARER:
            yield value[len(BEARER) :].strip()


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope.get("headers", ()):
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _with_headers(
    headers: Iterable[tuple[bytes, bytes]],
) -> Iterable[tuple[bytes, bytes]]:
    """The headers of an answer, ours where it has none of its own, without the server's name."""
    kept = [(name, value) for name, value in headers if name.lower() != b"server"]
    names = {name.lower() for name, _ in kept}
    yield from kept
    yield from ((name, value) for name, value in HEADERS if name not in names)


async def _answer(denied: Denied, send: Send) -> None:
    error = {"error": {"field": denied.field, "message": str(denied)}}
    body = json.dumps(error).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # what was sent is not read
    ]
    if denied.status == 401:
        headers.append((b"www-authenticate", CHALLENGE.encode()))
    if denied.status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": denied.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
