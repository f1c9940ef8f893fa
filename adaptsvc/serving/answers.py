"""What inference gave, as the answers of the HTTP interface. Run in the engine's threads, so thread-safe.

It knows nothing of requests or connections.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adaptsvc.errors import ImageTooLargeError
from adaptsvc.metrics import Observer
from adaptsvc.serving.jobs import Decoded, Finish, Item
from adaptsvc.serving.predictor import Predictor
from adaptsvc.serving.requests import RequestError, Upload
from adaptsvc.serving.schemas import Classified, Embedded, Embedding, Failed, Problem, Result
from adaptsvc.types import Float32


class Classifier:
    """Makes the answers of /v1/classify.

    Args:
        observer: told of every answer.
        sample: given every answered image, by its id; returns at once and never fails.
    """

    def __init__(
        self,
        observer: Observer,
        *,
        sample: Callable[[str, bytes], None] = lambda _image_id, _data: None,
    ) -> None:
        self._observer = observer
        self._sample = sample

    def finish(self, uploads: Sequence[Upload], top_k: int) -> Finish:
        """What makes the answer for these images."""

        def finish(
            predictor: Predictor, images: Sequence[Decoded], embeddings: Float32
        ) -> Classified:
            refuse_if_none(uploads, images)
            answer = predictor.interpret(embeddings, top_k)
            self._observer.predicted(answer.predictions)
            predictions = iter(answer.predictions)
            results: list[Result | Failed] = []
            for upload, image in zip(uploads, images, strict=True):
                if image.error is None:
                    results.append(Result.of(image.image_id, next(predictions)))
                    self._sample(image.image_id, upload.data)
                else:
                    results.append(failed(upload, image))
            return Classified(model_version=answer.version, results=tuple(results))

        return finish


def embed(uploads: Sequence[Upload]) -> Finish:
    """What makes the answer of /v1/embed for these images."""

    def finish(predictor: Predictor, images: Sequence[Decoded], embeddings: Float32) -> Embedded:
        refuse_if_none(uploads, images)
        rows = iter(embeddings.tolist())
        results = tuple(
            Embedding(image_id=image.image_id, embedding=tuple(next(rows)))
            if image.error is None
            else failed(upload, image)
            for upload, image in zip(uploads, images, strict=True)
        )
        return Embedded(model_version=predictor.manifest.id, results=results)

    return finish


def items_of(uploads: Sequence[Upload]) -> list[Item]:
    """Uploads as the engine takes them."""
    return [Item(upload.data, upload.image_id) for upload in uploads]


def failed(upload: Upload, image: Decoded) -> Failed:
    """The result of an image that could not be read, among others that could."""
    return Failed(
        image_id=image.image_id, error=Problem(field=upload.field, message=str(image.error))
    )


def refuse_if_none(uploads: Sequence[Upload], images: Sequence[Decoded]) -> None:
    """Refuse a request none of whose images can be read.

    Raises:
        RequestError: 400 or 413, naming the first.
    """
    first = images[0]
    if all(image.error is not None for image in images):
        status = 413 if isinstance(first.error, ImageTooLargeError) else 400
        raise RequestError(status, uploads[0].field, str(first.error))
