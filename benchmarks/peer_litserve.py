"""LitServe over the same model, images as files of a form, as its documentation shows it."""

import os
from typing import Any, cast

import litserve
from fastapi import Request, UploadFile

from benchmarks.peer_app import PORT, PROCESSES, Classifier


class Api(litserve.LitAPI):  # type: ignore[misc]
    """One image per request."""

    def setup(self, device: str) -> None:
        """In every worker."""
        self._classifier = Classifier()

    def decode_request(self, request: Request) -> bytes:
        """The file of the form; by the annotation LitServe knows to hand one over."""
        form = cast(dict[str, UploadFile], request)
        return form["images"].file.read()

    def predict(self, data: bytes) -> dict[str, Any]:
        """Decode and classify."""
        return self._classifier.classify(data)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """As it is."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(api_path="/v1/classify"),
        accelerator="cpu",
        workers_per_device=int(os.environ[PROCESSES]),
    )
    server.run(port=int(os.environ[PORT]), host="127.0.0.1", generate_client_file=False)
