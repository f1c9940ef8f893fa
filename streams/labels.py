"""Labels joined to images by image id, whichever comes first, in bounded memory. Pure.

Knows nothing of logs, files, pictures or clocks: it takes positions, times and `now`.

What it remembers of an image is where it lies, so that a label that comes an hour later still finds
it in the log; of a label whose image has not come, everything. Both are kept for a time to live and
up to a cap, and are small enough to lie in a checkpoint.

Joining never looks at a clock: whatever is remembered is joined. Only `expire` forgets by age, and it
errs on the side of waiting: an entry counts as no older than any that came before it. So where the
clock that stamps messages jumps back, what comes after does not age at once; where `now` jumps back,
nothing is old. After a stamp from the future entries wait longer than they should, until the caps take
them.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from streams.message import Position


@dataclass(frozen=True, slots=True)
class SeenImage:
    """An image that came.

    Attributes:
        image_id: the sender's name for it.
        position: where it can be read again.
        at_s: when it was appended, in seconds.
    """

    image_id: str
    position: Position
    at_s: float


@dataclass(frozen=True, slots=True)
class GivenLabel:
    """What somebody says that an image shows.

    Attributes:
        image_id: of which image.
        label: the name of its class.
        position: where the label lies in the log.
        at_s: when it was appended, in seconds.
    """

    image_id: str
    label: str
    position: Position
    at_s: float


@dataclass(frozen=True, slots=True)
class Joined:
    """A label and the image it is for."""

    given: GivenLabel
    image: SeenImage


@dataclass(frozen=True, slots=True)
class Step:
    """What one image or label led to.

    Attributes:
        joined: the pair it completed, if it did: none or one.
        crowded_out: labels that no longer wait, because more came than may.
        again: the label was known already: said before, or older than what was said since.
        contradicts: the label took the place of another one for the same image.
    """

    joined: tuple[Joined, ...] = ()
    crowded_out: tuple[GivenLabel, ...] = ()
    again: bool = False
    contradicts: bool = False


@dataclass(frozen=True, slots=True)
class JoinState:
    """All that a join remembers, oldest first.

    Attributes:
        images: those that came.
        joined: the label of each image that has one.
        waiting: labels whose image has not come.
        latest_s: the latest time seen.
    """

    images: tuple[SeenImage, ...] = ()
    joined: tuple[GivenLabel, ...] = ()
    waiting: tuple[GivenLabel, ...] = ()
    latest_s: float = 0.0


class LabelJoin:
    """Which label is for which image.

    The newest label of an image wins. Within a partition the offset says which is newer, never the
    clock, so that a label delivered again changes nothing; across partitions it is the one that came
    later.

    Args:
        ttl_s: how long a label waits for its image, and an image is remembered for its label.
        most_waiting: labels that wait at once; the one that came first gives way.
        most_images: images remembered at once; the one that came first is forgotten.

    Example:
        >>> from streams.message import Position, TopicPartition
        >>> join = LabelJoin(ttl_s=60.0, most_waiting=10, most_images=10)
        >>> label = GivenLabel("a", "dog", Position(TopicPartition("labels", 0), 0), at_s=1.0)
        >>> image = SeenImage("a", Position(TopicPartition("images", 0), 7), at_s=30.0)
        >>> join.label(label).joined
        ()
        >>> [(pair.given.label, pair.image.position.offset) for pair in join.image(image).joined]
        [('dog', 7)]
    """

    def __init__(self, *, ttl_s: float, most_waiting: int, most_images: int) -> None:
        if not ttl_s > 0 or most_waiting < 1 or most_images < 1:
            raise ValueError(
                f"got ttl_s {ttl_s}, most_waiting {most_waiting}, most_images {most_images}; expected "
                "a time over 0 and caps of at least 1"
            )
        self._ttl_s = ttl_s
        self._most_waiting = most_waiting
        self._most_images = most_images
        self._images: OrderedDict[str, SeenImage] = OrderedDict()
        self._joined: dict[str, GivenLabel] = {}  # its keys are among those of _images
        self._waiting: OrderedDict[str, GivenLabel] = OrderedDict()
        self._latest_s = 0.0
        self._oldest_s = float("inf")  # no entry is older; spares `expire` looking at all of them

    @property
    def state(self) -> JoinState:
        """What to keep over a restart."""
        images, waiting = tuple(self._images.values()), tuple(self._waiting.values())
        joined = (self._joined[name] for name in self._images if name in self._joined)
        return JoinState(images, tuple(joined), waiting, self._latest_s)

    @property
    def waiting(self) -> int:
        """Labels whose image has not come."""
        return len(self._waiting)

    def restore(self, state: JoinState) -> tuple[GivenLabel, ...]:
        """Remember what was kept, as far as the caps allow; the waiting labels that they do not."""
        kept = state.images[-self._most_images :]
        self._images = OrderedDict((image.image_id, image) for image in kept)
        self._joined = {
            each.image_id: each for each in state.joined if each.image_id in self._images
        }
        self._waiting = OrderedDict(
            (each.image_id, each) for each in state.waiting[-self._most_waiting :]
        )
        self._latest_s = state.latest_s
        self._oldest_s = min(_earliest_s(kept), _earliest_s(self._waiting.values()))
        return state.waiting[: -self._most_waiting]

    def knows(self, image_id: str) -> bool:
        """Whether an image of that id is remembered."""
        return image_id in self._images

    def forget(self, image_id: str) -> None:
        """Remember an image and its label no longer; harmless when it is not."""
        self._images.pop(image_id, None)
        self._joined.pop(image_id, None)

    def image(self, image: SeenImage) -> Step:
        """An image came; again, it replaces its older entry and keeps its label."""
        name = image.image_id
        self._images.pop(name, None)
        self._images[name] = image = replace(image, at_s=self._age_from(image.at_s))
        while len(self._images) > self._most_images:
            self.forget(next(iter(self._images)))
        if (given := self._waiting.pop(name, None)) is None:
            return Step()
        self._joined[name] = given
        return Step(joined=(Joined(given, image),))

    def label(self, given: GivenLabel) -> Step:
        """A label came; it is joined, or waits for its image."""
        name = given.image_id
        given = replace(given, at_s=self._age_from(given.at_s))
        known = self._joined.get(name) or self._waiting.get(name)
        if known is not None and _is_stale(given, known):
            return Step(again=True)
        again = known is not None and known.label == given.label
        contradicts = known is not None and not again
        if (image := self._images.get(name)) is None:
            return Step((), self._wait(given), again, contradicts)
        self._joined[name] = given
        return Step((Joined(given, image),), (), again, contradicts)

    def expire(self, now_s: float) -> tuple[GivenLabel, ...]:
        """Forget what is older than the time to live.

        Call it when every image appended before `now_s` was received: an image that is still unread
        must find the label that waits for it, however long the reader was away.

        Returns:
            The labels that waited in vain, oldest first.
        """
        oldest_kept_s = now_s - self._ttl_s
        if self._oldest_s >= oldest_kept_s:
            return ()
        for name in [n for n, image in self._images.items() if image.at_s < oldest_kept_s]:
            self.forget(name)
        expired = [each for each in self._waiting.values() if each.at_s < oldest_kept_s]
        for each in expired:
            del self._waiting[each.image_id]
        self._oldest_s = min(
            _earliest_s(self._images.values()), _earliest_s(self._waiting.values())
        )
        return tuple(expired)

    def _wait(self, given: GivenLabel) -> tuple[GivenLabel, ...]:
        """Let a label wait; the ones that had to give way."""
        self._waiting.pop(given.image_id, None)
        self._waiting[given.image_id] = given
        crowded_out = []
        while len(self._waiting) > self._most_waiting:
            crowded_out.append(self._waiting.popitem(last=False)[1])
        return tuple(crowded_out)

    def _age_from(self, at_s: float) -> float:
        """When a message was appended at the earliest, by its own stamp and those before it."""
        self._latest_s = max(self._latest_s, at_s)
        self._oldest_s = min(self._oldest_s, self._latest_s)
        return self._latest_s


def _is_stale(given: GivenLabel, known: GivenLabel) -> bool:
    """Whether a label is delivered again, or is older than what was said since."""
    here, there = given.position, known.position
    return here.partition == there.partition and here.offset <= there.offset


def _earliest_s(entries: Iterable[SeenImage | GivenLabel]) -> float:
    return min((each.at_s for each in entries), default=float("inf"))
