"""The Open Inference Protocol, version 2, over HTTP: /v2, for clients that send and read tensors.

It knows nothing of how answers are computed. One model, `adaptsvc`; its version is the one that serves. The
input is `images` (BYTES, base64 of encoded images) or `pixels` (UINT8, decoded images at the model's size).
Only JSON, without the extension for binary data. A tensor has no place for the error of one image, so one bad
image fails its request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, FailFast, Field

from adaptsvc.errors import ImageError
from adaptsvc.serving.jobs import Decoded, Finish, Item
from adaptsvc.serving.live import Live
from adaptsvc.serving.predictor import Predictor
from adaptsvc.serving.problems import STATUSES, documented
from adaptsvc.serving.requests import RequestError, RequestLimits, from_base64, read_json
from adaptsvc.serving.schemas import inlined
from adaptsvc.serving.waiting import TIMEOUT_PARAMETER, Desk
from adaptsvc.types import Float32, UInt8

NAME, PLATFORM = "adaptsvc", "onnxruntime_onnx"
OUTPUTS = ("label", "probabilities", "ood_score", "embedding")
MOST_DIMENSIONS = 4


class _Tensors(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class InputTensor(_Tensors):
    """One input; data are in row-major order, flat or nested."""

    name: Literal["images", "pixels"]
    datatype: Literal["BYTES", "UINT8"]
    shape: Annotated[tuple[int, ...], FailFast()] = Field(min_length=1, max_length=MOST_DIMENSIONS)
    data: list[Any] = Field(min_length=1)


class Wanted(_Tensors):
    """One output that is asked for."""

    name: Literal["label", "probabilities", "ood_score", "embedding"]


class InferBody(_Tensors):
    """The body of POST /v2/models/adaptsvc/infer."""

    id: str = ""
    inputs: Annotated[tuple[InputTensor, ...], FailFast()] = Field(min_length=1, max_length=1)
    outputs: Annotated[tuple[Wanted, ...], FailFast()] = ()


class OutputTensor(_Tensors):
    """One output, data flat."""

    name: str
    datatype: Literal["BYTES", "FP32"]
    shape: tuple[int, ...]
    data: list[Any]


class Inferred(_Tensors):
    """The answer."""

    model_name: str
    model_version: str
    id: str
    outputs: tuple[OutputTensor, ...]


class TensorError(_Tensors):
    """Every error under /v2."""

    error: str


ERRORS = documented(TensorError, (*STATUSES, 404))
BODY = {
    "parameters": [TIMEOUT_PARAMETER],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": inlined(InferBody)}},
    },
}


def add_tensors(
    app: FastAPI, live: Live, desk: Desk, limits: RequestLimits, problem: Callable[[], str]
) -> None:
    """Add the routes to the application.

    Args:
        app: with the error handlers of `adaptsvc.serving.problems`.
        live: what serves.
        desk: takes requests to the engine.
        limits: of one request.
        problem: why inference does not work; empty when it does.
    """

    @app.get("/v2")
    def server() -> dict[str, Any]:
        """Server metadata."""
        return {"name": NAME, "version": app.version, "extensions": []}

    @app.get("/v2/health/live", responses=documented(TensorError, (503,)))
    async def is_live() -> Response:
        """Whether inference works."""
        return _health("live", problem())

    @app.get("/v2/health/ready", responses=documented(TensorError, (503,)))
    async def is_ready() -> Response:
        """Whether a version serves."""
        return _health("ready", problem() or ("" if live.current else "no version serves"))

    @app.get("/v2/models/{name}/ready", responses=ERRORS)
    async def model_is_ready(name: str = Path()) -> Response:
        """The same, of the model."""
        _check_name(name)
        return await is_ready()

    @app.get("/v2/models/{name}", responses=ERRORS)
    def model(name: str = Path()) -> dict[str, Any]:
        """Model metadata."""
        _check_name(name)
        return metadata(_serving(live))

    @app.post(
        "/v2/models/{name}/infer", openapi_extra=BODY, responses=ERRORS, response_model=Inferred
    )
    async def infer(request: Request, name: str = Path()) -> Response:
        """Labels, probabilities, OOD scores and embeddings of images."""
        _check_name(name)
        _serving(live)
        body = await read_json(request, InferBody, max_bytes=limits.body_bytes)
        items = items_of(body.inputs[0], limits)
        found = await desk.answer(request, items, outputs_of(body), Inferred)
        return Response(found.model_dump_json(), media_type="application/json")


def metadata(predictor: Predictor) -> dict[str, Any]:
    """What goes in and comes out, by the version that serves."""
    size, classes = predictor.base.preprocess.size, len(predictor.manifest.classes)
    width = predictor.version.head.class_embeddings.shape[1]
    inputs = [("images", "BYTES", [-1]), ("pixels", "UINT8", [-1, 3, size, size])]
    outputs = [
        ("label", "BYTES", [-1]),
        ("probabilities", "FP32", [-1, classes]),
        ("ood_score", "FP32", [-1]),
        ("embedding", "FP32", [-1, width]),
    ]
    return {
        "name": NAME,
        "versions": [str(predictor.manifest.id)],
        "platform": PLATFORM,
        "inputs": [_described(*tensor) for tensor in inputs],
        "outputs": [_described(*tensor) for tensor in outputs],
    }


def items_of(tensor: InputTensor, limits: RequestLimits) -> list[Item]:
    """The images of an input.

    Raises:
        RequestError: 422, its data do not fit its shape or its type.
    """
    data, field = _flat(tensor.data), tensor.name
    images, elements = tensor.shape[0], math.prod(tensor.shape)
    if min(tensor.shape) < 1 or len(data) != elements:
        raise RequestError(422, field, f"got {len(data)} elements for the shape {tensor.shape}")
    if images > limits.images:
        raise RequestError(422, field, f"got {images} images; send at most {limits.images}")
    if (field, tensor.datatype) == ("images", "BYTES") and elements == images:
        if not all(isinstance(text, str) for text in data):
            raise RequestError(422, field, "got data that are no text; send base64")
        return [Item(from_base64(text, f"{field}[{n}]")) for n, text in enumerate(data)]
    if (field, tensor.datatype) == ("pixels", "UINT8") and len(tensor.shape) == 4:
        pixels = _bytes_of(data, field).reshape(tensor.shape)
        return [Item(image.tobytes(), pixels=image) for image in pixels]
    raise RequestError(
        422, field, f"got {tensor.datatype} of shape {tensor.shape}; see GET /v2/models/{NAME}"
    )


def outputs_of(body: InferBody) -> Finish:
    """What makes the answer."""
    wanted: list[str] = [output.name for output in body.outputs] or list(OUTPUTS)

    def finish(predictor: Predictor, images: Sequence[Decoded], embeddings: Float32) -> Inferred:
        for index, image in enumerate(images):
            if isinstance(image.error, ImageError):
                raise RequestError(400, f"{body.inputs[0].name}[{index}]", str(image.error))
        probabilities, scores = predictor.scores(embeddings)
        classes = predictor.manifest.classes
        labels = [classes[k] for k in probabilities.argmax(axis=1)]
        found = {
            "label": OutputTensor(
                name="label", datatype="BYTES", shape=(len(labels),), data=labels
            ),
            "probabilities": _floats("probabilities", probabilities),
            "ood_score": _floats("ood_score", scores),
            "embedding": _floats("embedding", embeddings),
        }
        return Inferred(
            model_name=NAME,
            model_version=str(predictor.manifest.id),
            id=body.id,
            outputs=tuple(found[name] for name in wanted),
        )

    return finish


def _floats(name: str, values: Any) -> OutputTensor:
    flat = values.astype(np.float32).ravel().tolist()
    return OutputTensor(name=name, datatype="FP32", shape=values.shape, data=flat)


def _bytes_of(data: list[Any], field: str) -> UInt8:
    """Millions of integers, checked by C: a loop over them would hold up every other request."""
    if set(map(type, data)) == {int}:
        with suppress(ValueError):  # one is under 0 or over 255
            return np.frombuffer(bytes(data), np.uint8)
    raise RequestError(422, field, "got data that are no integers from 0 to 255")


def _flat(data: list[Any]) -> list[Any]:
    """Without the nesting that a shape can have; what is nested deeper is no element of any type."""
    for _ in range(MOST_DIMENSIONS - 1):
        if list not in set(map(type, data)):
            break
        data = [value for part in data for value in (part if type(part) is list else (part,))]
    return data


def _described(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _health(what: str, problem: str) -> Response:
    if problem:
        content, headers = {what: False, "error": problem}, {"Retry-After": "1"}
        return JSONResponse(content, status_code=503, headers=headers)
    return JSONResponse({what: True})


def _check_name(name: str) -> None:
    if name != NAME:
        raise RequestError(404, "path", f"there is no model {name[:40]!r}; there is {NAME!r}")


def _serving(live: Live) -> Predictor:
    if live.current is None:
        raise RequestError(503, "model", live.refusal or "no version has been published yet")
    return live.current
