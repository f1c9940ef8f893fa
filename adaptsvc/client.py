"""Asking a running service from Python: `Client`, and `AsyncClient` for asyncio.

Needs httpx alone; it knows nothing of models. What may be sent again is sent again: after 429 and 503 when
the service says, after a connection that failed a little later each time. Answering changes nothing in the
service, so a request that may have been answered is safe to repeat.

    with Client("http://localhost:3000") as client:
        print(client.classify(Path("photo.jpg")).results[0])
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import httpx

from adaptsvc.errors import ServiceError

TIMEOUT_HEADER, ID_HEADER = "X-Request-Timeout", "X-Image-Id"
AGAIN = (429, 503)
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 60.0
ANSWER_MARGIN_S = 5.0  # the service's own deadline comes first


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image, and the id its answer is to have; by default the SHA-256 of its bytes."""

    data: bytes
    image_id: str = ""


Source: TypeAlias = Image | bytes | Path


@dataclass(frozen=True, slots=True)
class Score:
    """A class and its calibrated probability."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Result:
    """The answer for one image; `error` says why there is none."""

    image_id: str
    label: str = ""
    confidence: float = 0.0
    top: tuple[Score, ...] = ()
    ood_score: float = 0.0
    is_ood: bool | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Classified:
    """The answers for the images of one request, in their order, by one version."""

    version: int
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Embedding:
    """The unit embedding of one image; `error` says why there is none."""

    image_id: str
    embedding: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embeddings of the images of one request, in their order, by one version."""

    version: int
    results: tuple[Embedding, ...]


@dataclass(frozen=True, slots=True)
class Serving:
    """The version that serves."""

    version: int
    model: str
    method: str
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """How to ask.

    Attributes:
        timeout_s: longest wait for one answer; the service is told.
        retries: how often a request is sent again.
        headers: sent with every request, an API key for instance.
    """

    timeout_s: float = 30.0
    retries: int = 3
    headers: Mapping[str, str] = field(default_factory=dict)


DEFAULTS = Options()


def delay_s(attempt: int, retry_after: str | None) -> float:
    """How long to wait before trying again, after the attempt with this number, from 0.

    Example:
        >>> delay_s(0, None), delay_s(3, None), delay_s(0, "2"), delay_s(0, "tomorrow")
        (0.1, 0.8, 2.0, 0.1)
    """
    if retry_after is not None and retry_after.isdigit():
        return min(LONGEST_DELAY_S, float(retry_after))
    return float(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**attempt))


class _Asking:
    """Requests to send and answers to read: what both clients share."""

    def __init__(self, url: str, options: Options) -> None:
        self._options = options
        self._http: dict[str, Any] = {
            "base_url": url,
            "headers": {TIMEOUT_HEADER: f"{options.timeout_s:g}", **options.headers},
            "timeout": options.timeout_s + ANSWER_MARGIN_S,
        }

    def _images(self, path: str, sources: Sequence[Source], **query: int) -> dict[str, Any]:
        if not sources:
            raise ValueError("no images; give at least one")
        images = [_image(source) for source in sources]
        call: dict[str, Any] = {"method": "POST", "url": path, "params": query}
        if len(images) == 1 and images[0].image_id.isascii():  # a header holds nothing else
            headers = {"content-type": "application/octet-stream"}
            if images[0].image_id:
                headers[ID_HEADER] = images[0].image_id
            return {**call, "content": images[0].data, "headers": headers}
        files = [("images", (f"{n}", image.data)) for n, image in enumerate(images)]
        if not any(image.image_id for image in images):
            return {**call, "files": files}
        return {**call, "files": files, "data": {"image_id": [each.image_id for each in images]}}

    def _delay(self, attempt: int, response: httpx.Response | None) -> float | None:
        """How long to wait before sending a request again; None where its answer stands."""
        if attempt >= self._options.retries:
            return None
        if response is None:
            return delay_s(attempt, None)
        if response.status_code in AGAIN:
            return delay_s(attempt, response.headers.get("retry-after"))
        return None


class Client(_Asking):
    """Asks a service, and waits. Thread-safe.

    Args:
        url: of the service, as ``http://localhost:3000``.
        options: how to ask.
        transport: another way to the service, for tests.

    Raises:
        ServiceError: every method, where the service answers with an error or not at all.
    """

    def __init__(
        self, url: str, options: Options = DEFAULTS, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        super().__init__(url, options)
        self._client = httpx.Client(**self._http, transport=transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: object, _where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def classify(self, *images: Source, top_k: int = 5) -> Classified:
        """Classify images, 64 at most."""
        return _classified(self._send(self._images("/v1/classify", images, top_k=top_k)))

    def embed(self, *images: Source) -> Embedded:
        """Unit embeddings of images, 64 at most."""
        return _embedded(self._send(self._images("/v1/embed", images)))

    def feedback(self, image_id: str, label: str) -> None:
        """Say what an image of the stream shows."""
        self._send(_feedback(image_id, label))

    def model(self) -> Serving:
        """What serves now."""
        return _serving(self._send(MODEL))

    def _send(self, call: Mapping[str, Any]) -> Any:
        attempt = 0
        while True:
            failure: httpx.TransportError | None = None
            response: httpx.Response | None = None
            try:
                response = self._client.request(**call)
            except httpx.TransportError as exc:
                failure = exc
            if (delay := self._delay(attempt, response)) is None:
                return _body(response, failure)
            time.sleep(delay)
            attempt += 1


class AsyncClient(_Asking):
    """Asks a service from asyncio; otherwise as `Client`.

    Args:
        url: of the service.
        options: how to ask.
        transport: another way to the service, for tests.
    """

    def __init__(
        self,
        url: str,
        options: Options = DEFAULTS,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, options)
        self._client = httpx.AsyncClient(**self._http, transport=transport)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _exc: object, _where: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def classify(self, *images: Source, top_k: int = 5) -> Classified:
        """Classify images, 64 at most."""
        return _classified(await self._send(self._images("/v1/classify", images, top_k=top_k)))

    async def embed(self, *images: Source) -> Embedded:
        """Unit embeddings of images, 64 at most."""
        return _embedded(await self._send(self._images("/v1/embed", images)))

    async def feedback(self, image_id: str, label: str) -> None:
        """Say what an image of the stream shows."""
        await self._send(_feedback(image_id, label))

    async def model(self) -> Serving:
        """What serves now."""
        return _serving(await self._send(MODEL))

    async def _send(self, call: Mapping[str, Any]) -> Any:
        attempt = 0
        while True:
            failure: httpx.TransportError | None = None
            response: httpx.Response | None = None
            try:
                response = await self._client.request(**call)
            except httpx.TransportError as exc:
                failure = exc
            if (delay := self._delay(attempt, response)) is None:
                return _body(response, failure)
            await asyncio.sleep(delay)
            attempt += 1


MODEL = {"method": "GET", "url": "/v1/model"}


def _feedback(image_id: str, label: str) -> dict[str, Any]:
    said = {"image_id": image_id, "label": label}
    return {"method": "POST", "url": "/v1/feedback", "json": said}


def _image(source: Source) -> Image:
    if isinstance(source, Image):
        return source
    return Image(source.read_bytes() if isinstance(source, Path) else source)


def _body(response: httpx.Response | None, failure: httpx.TransportError | None) -> Any:
    if response is None:
        raise ServiceError(f"the service gave no answer: {failure}") from failure
    try:
        body = response.json()
    except ValueError as exc:
        raise ServiceError(
            f"got status {response.status_code} and no JSON; is this an adaptsvc service?",
            status=response.status_code,
        ) from exc
    if response.is_success:
        return body
    told = body.get("error") if isinstance(body, dict) else None
    told = told if isinstance(told, dict) else {"message": str(body)}
    raise ServiceError(
        str(told.get("message")), status=response.status_code, field=str(told.get("field", ""))
    )


def _classified(body: Any) -> Classified:
    return Classified(body["model_version"], tuple(_result(each) for each in body["results"]))


def _result(each: Any) -> Result:
    if "error" in each:
        return Result(each["image_id"], error=each["error"]["message"])
    top = tuple(Score(**score) for score in each["top"])
    return Result(
        each["image_id"], each["label"], each["confidence"], top, each["ood_score"], each["is_ood"]
    )


def _embedded(body: Any) -> Embedded:
    results = tuple(
        Embedding(each["image_id"], error=each["error"]["message"])
        if "error" in each
        else Embedding(each["image_id"], tuple(each["embedding"]))
        for each in body["results"]
    )
    return Embedded(body["model_version"], results)


def _serving(body: Any) -> Serving:
    return Serving(body["model_version"], body["model"], body["method"], tuple(body["classes"]))
