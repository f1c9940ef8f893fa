"""A client that asks the service without a pause, and counts what fails. It knows nothing of the rest."""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import Self

import httpx

PAUSE_S, PATIENCE_S = 0.1, 30.0
RAW = {"content-type": "image/png"}


class Asker:
    """Asks in a thread of its own, from `with` to its end.

    Args:
        url: of the service.
        picture: the one it asks about.
    """

    def __init__(self, url: str, picture: bytes) -> None:
        self._url = url
        self._picture = picture
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asker")
        self.requests = 0
        self.failures: Counter[str] = Counter()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def failed(self) -> int:
        """Requests without an answer, or with another than 200."""
        return self.failures.total()

    def _run(self) -> None:
        with httpx.Client(timeout=PATIENCE_S) as client:
            while not self._stop.wait(PAUSE_S):
                self.requests += 1
                try:
                    answer = client.post(
                        f"{self._url}/v1/classify", content=self._picture, headers=RAW
                    )
                except httpx.TransportError as exc:
                    self.failures[type(exc).__name__] += 1
                else:
                    if not answer.is_success:
                        self.failures[str(answer.status_code)] += 1
