"""The demo's HTTP client: sends pictures, counts what fails, times what does not.

It knows nothing of the stream or the worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from adaptsvc.demo.data import Picture
from adaptsvc.demo.measure import Reply
from adaptsvc.demo.report import Journal
from adaptsvc.errors import AdaptsvcError

BATCH, TIMEOUT_S, ATTEMPTS = 16, 30.0, 5


class Visitor:
    """Asks the service, and writes down how it went.

    Args:
        url: of the service.
        journal: where requests, failures and times are noted.
    """

    def __init__(self, url: str, journal: Journal) -> None:
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S)
        self._journal = journal
        self._started = time.monotonic()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ready(self) -> bool:
        """Whether the service says it is ready; not counted as a request."""
        try:
            return self._client.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def classify_all(
        self, pictures: Sequence[Picture], advance: Callable[[int], None]
    ) -> list[Reply]:
        """Every picture, in batches; again from the start when the version changes half-way.

        Raises:
            AdaptsvcError: requests failed, or versions changed, every time.
        """
        for _ in range(ATTEMPTS):
            replies: list[Reply] = []
            for start in range(0, len(pictures), BATCH):
                replies += self._classify(pictures[start : start + BATCH])
                advance(len(replies))
            if len(replies) == len(pictures) and len({reply.version for reply in replies}) == 1:
                return replies
        raise AdaptsvcError(
            f"{len(pictures)} pictures were not answered by one version in {ATTEMPTS} attempts; "
            f"last failures: {self._journal.failures[-3:]}"
        )

    def classify_one(self, picture: Picture) -> Reply | None:
        """One picture as a raw body, timed; None when it failed."""
        sent = time.monotonic()
        body = self._post(content=picture.data, headers={"content-type": "image/png"})
        if body is None:
            return None
        now = time.monotonic()
        self._journal.latencies.append((now - self._started, now - sent))
        return Reply.of(body["model_version"], body["results"][0])

    def note_swap(self) -> None:
        """A new version answers: when, and how long the service says the swap took."""
        self._journal.swaps.append(time.monotonic() - self._started)
        text = self._client.get("/metrics").text
        totals = {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in ("adaptsvc_swap_seconds_sum", "adaptsvc_swap_seconds_count")
        }
        count = totals.get("adaptsvc_swap_seconds_count", 0.0)
        if count > 0:
            self._journal.swap_ms = 1000 * totals["adaptsvc_swap_seconds_sum"] / count

    def _classify(self, pictures: Sequence[Picture]) -> list[Reply]:
        files = [("images", (p.image_id, p.data, "image/png")) for p in pictures]
        body = self._post(files=files)
        if body is None:
            return []
        return [Reply.of(body["model_version"], result) for result in body["results"]]

    def _post(self, **request: Any) -> dict[str, Any] | None:
        self._journal.requests += 1
        try:
            response = self._client.post("/v1/classify", params={"top_k": 1}, **request)
            response.raise_for_status()
            body: dict[str, Any] = response.json()
        except (httpx.HTTPError, ValueError) as exc:
            self._journal.failures.append(str(exc))
            return None
        return body
