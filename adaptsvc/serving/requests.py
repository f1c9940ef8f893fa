"""A request's body to encoded images, or to a record; it knows nothing of decoding or models.

Images come in three forms, a raw body, multipart/form-data and base64 in JSON, and nothing in them is ever
fetched as a URL. Each may bring the id that its answer is to have.
"""

from __future__ import annotations

import base64
import binascii
import reprlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from adaptsvc.serving.schemas import ImagesBody

RAW_TYPES = ("image/", "application/octet-stream")
MULTIPART = "multipart/form-data"
JSON = "application/json"
FIELD, ID_FIELD, ID_HEADER = "images", "image_id", "X-Image-Id"
MOST_ID_BYTES = 1024  # as in the stream
MULTIPART_OVERHEAD_BYTES = 1024  # headers and boundary of one part
MOST_MEMBERS = 100_000  # of JSON objects; pydantic notes each that is unknown, in a kilobyte
CLIENT_CLOSED_REQUEST = 499  # nginx's; nobody reads it but the access log

Record = TypeVar("Record", bound=BaseModel)


class RequestError(Exception):
    """A request that cannot be answered: its status, the field at fault, when it is worth another try."""

    def __init__(self, status: int, field: str, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.status = status
        self.field = field
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may hold; `body_bytes` caps whatever its images add up to."""

    image_bytes: int
    images: int
    body_bytes: int

    @property
    def form_bytes(self) -> int:
        """The largest multipart body."""
        return min(self.body_bytes, self.images * (self.image_bytes + MULTIPART_OVERHEAD_BYTES))


@dataclass(frozen=True, slots=True)
class Upload:
    """One encoded image, the field it came in, and the id it came with; an empty one is its SHA-256."""

    field: str
    data: bytes
    image_id: str = ""


async def read_images(request: Request, limits: RequestLimits) -> list[Upload]:
    """The encoded images of a request, in order.

    Raises:
        RequestError: 400 malformed or empty, 413 too large, 415 another content type, 422 the wrong
            field or too many images, 499 the client went away.
    """
    content_type = _content_type(request)
    if content_type == MULTIPART:
        return await _multipart(request, limits)
    if content_type.startswith(RAW_TYPES):
        image_id = _checked_id(request.headers.get(ID_HEADER, ""), ID_HEADER)
        limit = min(limits.image_bytes, limits.body_bytes)
        data = b"".join([part async for part in _capped(request, limit)])
        return [Upload("body", data, image_id)]
    if content_type == JSON:
        said = await read_json(request, ImagesBody, max_bytes=limits.body_bytes)
        return _from_json(said, limits)
    raise RequestError(
        415,
        "content-type",
        f"got content type {content_type or 'none'!r}; send one image as image/* or "
        f"application/octet-stream, or up to {limits.images} as multipart/form-data or {JSON} in "
        f"'{FIELD}'",
    )


async def read_json(request: Request, kind: type[Record], *, max_bytes: int) -> Record:
    """The record in a JSON body.

    Raises:
        RequestError: 400 not JSON, 413 too large, 415 another content type, 422 not such a record,
            499 the client went away.
    """
    if (content_type := _content_type(request)) != JSON:
        raise RequestError(
            415, "content-type", f"got content type {content_type or 'none'!r}; send {JSON}"
        )
    data = b"".join([part async for part in _capped(request, max_bytes)])
    if (colons := data.count(b":")) > MOST_MEMBERS:
        raise RequestError(422, "body", f"got {colons} members; at most {MOST_MEMBERS} are allowed")
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise RequestError(400, "body", f"the body is no JSON: {first['msg']}") from exc
        field = str(first["loc"][-1]) if first["loc"] else "body"
        got = reprlib.repr(first["input"])  # it may have megabytes
        raise RequestError(422, field, f"got {got}; {first['msg']}") from exc


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _multipart(request: Request, limits: RequestLimits) -> list[Upload]:
    parser = MultiPartParser(
        request.headers,
        _capped(request, limits.form_bytes),
        max_files=limits.images,
        max_fields=limits.images,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError) as exc:  # the last of a charset
        raise _malformed(str(exc), limits) from exc
    try:
        return await _from_form(form, limits)
    finally:
        await form.close()


async def _from_form(form: FormData, limits: RequestLimits) -> list[Upload]:
    ids = [value for name, value in form.multi_items() if name == ID_FIELD]
    files = [(name, value) for name, value in form.multi_items() if name != ID_FIELD]
    if not files:
        raise RequestError(422, FIELD, f"got a form without files; send at least one in '{FIELD}'")
    if ids and len(ids) != len(files):
        raise RequestError(
            422, ID_FIELD, f"got {len(ids)} ids for {len(files)} images; send one each, or none"
        )
    return [
        Upload(
            f"{FIELD}[{index}]",
            await _content(name, value, limits),
            _checked_id(ids[index], ID_FIELD) if ids else "",
        )
        for index, (name, value) in enumerate(files)
    ]


def _from_json(said: ImagesBody, limits: RequestLimits) -> list[Upload]:
    if not 1 <= len(said.images) <= limits.images:
        count, most = len(said.images), limits.images
        raise RequestError(422, FIELD, f"got {count} images; send 1 to {most} a request")
    uploads = []
    for index, image in enumerate(said.images):
        field = f"{FIELD}[{index}]"
        uploads.append(
            Upload(field, from_base64(image.data, field), _checked_id(image.image_id or "", field))
        )
    return uploads


def from_base64(text: str, field: str) -> bytes:
    """The bytes that base64 stands for.

    Raises:
        RequestError: 422, it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise RequestError(422, field, f"got no base64: {exc}") from exc


def _checked_id(image_id: str | UploadFile, field: str) -> str:
    """An id that can be kept and logged."""
    if not isinstance(image_id, str) or not image_id.isprintable():
        raise RequestError(422, field, "got an image id with unprintable characters; send text")
    try:
        size_bytes = len(image_id.encode())
    except UnicodeEncodeError as exc:
        raise RequestError(422, field, "got an image id that is no Unicode text") from exc
    if size_bytes > MOST_ID_BYTES:
        raise RequestError(
            422,
            field,
            f"got an image id of {size_bytes} bytes, at most {MOST_ID_BYTES} are allowed",
        )
    return image_id


async def _content(name: str, value: UploadFile | str, limits: RequestLimits) -> bytes:
    if name != FIELD:
        raise RequestError(422, name, f"got the field {name!r}; send files in '{FIELD}'")
    if not isinstance(value, UploadFile):
        raise RequestError(422, name, f"got text in the field {name!r}; send files in it")
    if value.size is not None and value.size > limits.image_bytes:
        raise _too_large(value.size, limits.image_bytes, FIELD)
    return await value.read()


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
    try:
        async for part in request.stream():
            total += len(part)
            if total > limit:
                raise _too_large(total, limit, "body")
            yield part
    except ClientDisconnect as exc:
        raise RequestError(CLIENT_CLOSED_REQUEST, "connection", "the client went away") from exc


def _too_large(size: int, limit: int, field: str) -> RequestError:
    return RequestError(413, field, f"got {size} bytes, at most {limit} are allowed; send less")
