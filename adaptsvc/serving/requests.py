"""A request's body to encoded images, or to a record; it knows nothing of decoding or models.

Images come in two forms, a raw body and multipart/form-data, and nothing in them is ever fetched as a URL.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

RAW_TYPES = ("image/", "application/octet-stream")
MULTIPART = "multipart/form-data"
JSON = "application/json"
FIELD = "images"
MULTIPART_OVERHEAD_BYTES = 1024  # headers and boundary of one part

Record = TypeVar("Record", bound=BaseModel)


class RequestError(Exception):
    """A request that cannot be answered, with its status and the field at fault."""

    def __init__(self, status: int, field: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.field = field


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may hold."""

    image_bytes: int
    images: int

    @property
    def body_bytes(self) -> int:
        """The largest multipart body."""
        return self.images * (self.image_bytes + MULTIPART_OVERHEAD_BYTES)


@dataclass(frozen=True, slots=True)
class Upload:
    """One encoded image and the field it came in."""

    field: str
    data: bytes


async def read_images(request: Request, limits: RequestLimits) -> list[Upload]:
    """The encoded images of a request, in order.

    Raises:
        RequestError: 400 malformed or empty, 413 too large, 415 another content type, 422 the wrong
            field or too many images.
    """
    content_type = _content_type(request)
    if content_type == MULTIPART:
        return await _multipart(request, limits)
    if content_type.startswith(RAW_TYPES):
        data = b"".join([part async for part in _capped(request, limits.image_bytes)])
        return [Upload("body", data)]
    raise RequestError(
        415,
        "content-type",
        f"got content type {content_type or 'none'!r}; send one image as image/* or "
        f"application/octet-stream, or up to {limits.images} as multipart/form-data in '{FIELD}'",
    )


async def read_json(request: Request, kind: type[Record], *, max_bytes: int) -> Record:
    """The record in a JSON body.

    Raises:
        RequestError: 400 not JSON, 413 too large, 415 another content type, 422 not such a record.
    """
    if (content_type := _content_type(request)) != JSON:
        raise RequestError(
            415, "content-type", f"got content type {content_type or 'none'!r}; send {JSON}"
        )
    data = b"".join([part async for part in _capped(request, max_bytes)])
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise RequestError(400, "body", f"the body is no JSON: {first['msg']}") from exc
        field = str(first["loc"][-1]) if first["loc"] else "body"
        got = repr(first["input"])[:100]
        raise RequestError(422, field, f"got {got}; {first['msg']}") from exc


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _multipart(request: Request, limits: RequestLimits) -> list[Upload]:
    parser = MultiPartParser(
        request.headers,
        _capped(request, limits.body_bytes),
        max_files=limits.images,
        max_fields=limits.images,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as exc:
        raise _malformed(str(exc), limits) from exc
    try:
        return [
            Upload(f"{FIELD}[{index}]", await _content(name, value, limits))
            for index, (name, value) in enumerate(form.multi_items())
        ] or _empty()
    finally:
        await form.close()


async def _content(name: str, value: UploadFile | str, limits: RequestLimits) -> bytes:
    if name != FIELD or not isinstance(value, UploadFile):
        raise RequestError(
            422, name, f"got the field {name!r} as text or by another name; send files in '{FIELD}'"
        )
    if value.size is not None and value.size > limits.image_bytes:
        raise _too_large(value.size, limits.image_bytes, FIELD)
    return await value.read()


def _empty() -> list[Upload]:
    raise RequestError(422, FIELD, f"got a form without files; send at least one in '{FIELD}'")


def _malformed(detail: str, limits: RequestLimits) -> RequestError:
    if detail.startswith("Too many"):
        return RequestError(422, FIELD, f"{detail}; send at most {limits.images} images a request")
    return RequestError(400, "body", f"the form cannot be read: {detail}; send multipart/form-data")


async def _capped(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    """The body in pieces, refused as soon as it is known to be too large."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(int(declared), limit, "body")
    total = 0
    async for part in request.stream():
        total += len(part)
        if total > limit:
            raise _too_large(total, limit, "body")
        yield part


def _too_large(size: int, limit: int, field: str) -> RequestError:
    return RequestError(413, field, f"got {size} bytes, at most {limit} are allowed; send less")
