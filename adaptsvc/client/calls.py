"""Every request as a value, and what makes of its answer what it is; nothing here sends anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from adaptsvc.client import answers, reports
from adaptsvc.client.answers import Source, image_of
from adaptsvc.client.reports import Classes, ClassesAsked, reading
from adaptsvc.errors import ServiceError

ID_HEADER = "X-Image-Id"
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 60.0
Kind = TypeVar("Kind")


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


@dataclass(frozen=True, slots=True)
class Call(Generic[Kind]):
    """One request.

    Attributes:
        read: makes the answer of its JSON.
        parts: parameters, headers and body, by their names in httpx.
    """

    method: str
    path: str
    read: Callable[[Any], Kind]
    parts: Mapping[str, Any] = field(default_factory=dict)


def delay_s(attempt: int, retry_after: str | None) -> float:
    """How long to wait before trying again, after the attempt with this number, from 0.

    Example:
        >>> delay_s(0, None), delay_s(3, None), delay_s(0, "2"), delay_s(0, "tomorrow")
        (0.1, 0.8, 2.0, 0.1)
    """
    if retry_after is not None and retry_after.isdigit():
        return min(LONGEST_DELAY_S, float(retry_after))
    return float(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**attempt))


def classify(sources: Sequence[Source], top_k: int) -> Call[answers.Classified]:
    """Classify images."""
    return Call("POST", "/v1/classify", answers.classified, _images(sources, top_k=top_k))


def embed(sources: Sequence[Source]) -> Call[answers.Embedded]:
    """Unit embeddings of images."""
    return Call("POST", "/v1/embed", answers.embedded, _images(sources))


def feedback(image_id: str, label: str) -> Call[None]:
    """What an image of the stream shows."""
    said = {"image_id": image_id, "label": label}
    return Call("POST", "/v1/feedback", _nothing, {"json": said})


def model() -> Call[answers.Serving]:
    """What serves."""
    return Call("GET", "/v1/model", answers.serving)


def classes() -> Call[Classes]:
    """Which classes answer."""
    return Call("GET", "/v1/classes", reading(Classes))


def set_classes(names: Sequence[str], prompt: str | None) -> Call[Classes]:
    """Other classes."""
    wanted = {"classes": list(names), **({} if prompt is None else {"prompt": prompt})}
    return Call("PUT", "/v1/classes", reading(Classes), {"json": wanted})


def versions(limit: int, before: int | None) -> Call[reports.History]:
    """The history."""
    return Call("GET", "/v1/versions", reading(reports.History), _query(limit=limit, before=before))


def version(id: int) -> Call[reports.VersionDetail]:
    """One version."""
    return Call("GET", f"/v1/versions/{id}", reading(reports.VersionDetail))


def diff(id: int, against: int | None) -> Call[reports.Difference]:
    """What a version has that another has not."""
    query = _query(against=against)
    return Call("GET", f"/v1/versions/{id}/diff", reading(reports.Difference), query)


def activate(id: int, *, hold: bool) -> Call[reports.Activated]:
    """Make a version serve."""
    query = _query(hold=hold)
    return Call("POST", f"/v1/versions/{id}/activate", reading(reports.Activated), query)


def pin(id: int) -> Call[None]:
    """Keep a version."""
    return Call("POST", f"/v1/versions/{id}/pin", _nothing)


def unpin(id: int) -> Call[None]:
    """Let a version go."""
    return Call("POST", f"/v1/versions/{id}/unpin", _nothing)


def drift() -> Call[reports.Drift]:
    """What the worker says of the stream."""
    return Call("GET", "/v1/drift", reading(reports.Drift))


def answering(found: Classes, names: Sequence[str], prompt: str | None) -> bool:
    """Whether these classes answer; False while there is something to wait for.

    Args:
        found: what is said now.
        names: classes that were asked for.
        prompt: the same; None for whichever.

    Raises:
        ServiceError: the worker refused them.
    """
    last = found.request
    mine = last is not None and _are(last, names, prompt)
    if last is not None and mine and last.stage == "waiting":
        return False
    if _are(found, names, prompt):
        return True
    if last is not None and mine and last.stage == "refused":
        raise ServiceError(f"request {last.id} was refused: {last.reason}", field="classes")
    return False  # this process is behind, or nobody asked


def still_waiting(found: Classes, waited_s: float) -> ServiceError:
    """What is said when the time is over."""
    last = found.request
    told = (
        "nobody asked for any" if last is None else f"request {last.id}, the last, is {last.stage}"
    )
    return ServiceError(
        f"the classes do not answer after {waited_s:g} s; {told} ({len(found.classes)} classes answer by "
        f"version {found.version}); is a worker running?",
        field="classes",
    )


def _are(found: Classes | ClassesAsked, names: Sequence[str], prompt: str | None) -> bool:
    return found.classes == tuple(names) and prompt in (None, found.prompt)


def _nothing(_body: Any) -> None:
    return None


def _query(**values: int | None) -> dict[str, Any]:
    said = {name: value for name, value in values.items() if value is not None}
    return {"params": said} if said else {}


def _images(sources: Sequence[Source], **query: int) -> dict[str, Any]:
    if not sources:
        raise ValueError("no images; give at least one")
    images, parts = [image_of(source) for source in sources], _query(**query)
    if len(images) == 1 and images[0].image_id.isascii():  # a header holds nothing else
        headers = {"content-type": "application/octet-stream"}
        if images[0].image_id:
            headers[ID_HEADER] = images[0].image_id
        return {**parts, "content": images[0].data, "headers": headers}
    files = [("images", (f"{n}", image.data)) for n, image in enumerate(images)]
    if not any(image.image_id for image in images):
        return {**parts, "files": files}
    return {**parts, "files": files, "data": {"image_id": [each.image_id for each in images]}}
