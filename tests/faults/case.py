"""One fault as it is tried: what was sent, and what became of it, while a client asks the service.

It knows nothing of what the fault is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from adaptsvc.versions.store import VersionStore
from streams.message import Position
from tests.conftest import draw_png
from tests.faults.asker import Asker
from tests.faults.ledger import Counts
from tests.faults.site import ROUND_IMAGES, Site


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fault came to.

    Attributes:
        fault: which.
        struck: the messages, right after it.
        ended: the messages, once everything ran again.
        refused: messages that the log did not take, and said so.
        requests: that a client made, from before the fault until everything ran again.
        failed: of them.
        failures: why, and how often.
    """

    fault: str
    struck: Counts
    ended: Counts
    refused: int
    requests: int
    failed: int
    failures: dict[str, int]

    @property
    def lost(self) -> int:
        """Messages that nothing accounts for."""
        return max(self.struck.lost, self.ended.lost)


class Case:
    """One fault as it is tried: what was sent, and the first count."""

    def __init__(self, site: Site, fault: str, asker: Asker) -> None:
        self._site = site
        self._fault = fault
        self._asker = asker
        self._sent: list[Position] = []
        self._struck: Counts | None = None
        self._refused = 0

    def send(self, images: int = ROUND_IMAGES, *, unusable: int = 1) -> None:
        """Append images, by default as many as start a round, and messages that are none."""
        taken = self._site.send(images, unusable=unusable)
        self._refused += images + unusable - len(taken)
        self._sent += taken

    def sent(self, acknowledged: list[Position]) -> None:
        """Count these too."""
        self._sent += acknowledged

    def refuse(self, messages: int) -> None:
        """The log did not take so many."""
        self._refused += messages

    def count(self) -> Counts:
        """What has become of every message so far."""
        return self._site.count(self._sent)

    def strike(self) -> Counts:
        """Count right after the fault."""
        self._struck = self.count()
        return self._struck

    def settle(self) -> None:
        """Wait until every message is learned from, or a dead letter; send what a last round may lack.

        An image that was read again may have begun a round earlier, so that others are too few for the next.
        """
        self._site.wait(self.is_settled, f"{self._fault}: all is settled", self.count)

    def is_settled(self) -> bool:
        """Whether they are by now."""
        counts = self.count()
        if counts.stuck:
            self.send(counts.short, unusable=0)
        return counts.settled

    def outcome(self) -> Outcome:
        """What it came to."""
        ended = self.count()
        return Outcome(
            self._fault,
            self._struck or ended,
            ended,
            self._refused,
            self._asker.requests,
            self._asker.failed,
            dict(self._asker.failures),
        )


@contextmanager
def trying(site: Site, fault: str) -> Iterator[Case]:
    """A case, with a client that asks until its end; what is on disk is sound afterwards."""
    site.spare()
    site.listen()
    with Asker(site.url, draw_png(0)) as asker:
        case = Case(site, fault, asker)
        site.wait(lambda: asker.requests > 1, "the client asks")
        yield case
    _check_sound(site)


def _check_sound(site: Site) -> None:
    """Every version can be loaded, and the one that serves is there."""
    store = VersionStore(site.settings.store)
    for version in store.ids():
        store.load(version)
