"""What is to be measured on streams: the options, checked, and the cells they come to.

It knows nothing of models or of how a cell is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from adaptsvc.evaluation.data import EXTRA, Entry, Tree, choose_domains, files_digest
from adaptsvc.evaluation.plan import comma_list
from adaptsvc.evaluation.split import split
from adaptsvc.evaluation.stream_kinds import STREAMS, Draw, Material, Stream
from adaptsvc.sections import GuardSettings, LearnSettings

# What changes no figure, and what a cell says itself.
WITHOUT_EFFECT = {"seed", "pull", "threads", "niceness", "checkpoint_interval_s", "metrics_port"}
NEVER = 10**9  # so many labels, refusals or freezes do not come
GUARD_OFF = {
    "marginal_entropy_kept": 0.0,
    "agreement": 0.0,
    "class_kept": 0.0,
    "labels_significance": 1.0,
    "window_information": 0.0,
    "labels_min": NEVER,
    "refusals": NEVER,
    "freezes": NEVER,
}


@dataclass(frozen=True, slots=True)
class StreamCell:
    """One measurement: a service on one stream.

    Attributes:
        domains: those the stream comes from, in turn; one unless the stream is `domains`.
        guard: whether the guard decides on candidates.
        pull: how far each round's result goes back to zero-shot, in [0, 1].
        seed: of halves, stream and learning.
        digest: of everything else its figures depend on.
    """

    stream: Stream
    domains: tuple[str, ...]
    guard: bool
    pull: float
    seed: int
    digest: str


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What is asked for.

    Attributes:
        tree: the data set.
        known: L, the class names the model is given.
        extra: images of no known class, besides those of the tree.
        streams: which kinds.
        path: domains, in the order of the stream `domains`, where one may come again.
        guards: on, off, or both.
        pulls: for the stream `domains`; the others have the one of the settings.
        seeds: of halves, streams and learning.
        repeat: how often an ordinary stream sends each image.
        out: the folder of results.

    Raises:
        ConfigError: no image of an unknown class, or fewer than two domains, where a stream needs them; or
            a domain without images of known classes in both halves.
    """

    tree: Tree
    known: tuple[str, ...]
    extra: tuple[Entry, ...]
    streams: tuple[Stream, ...]
    path: tuple[str, ...]
    guards: tuple[bool, ...]
    pulls: tuple[float, ...]
    seeds: tuple[int, ...]
    repeat: int
    out: Path

    def __post_init__(self) -> None:
        if "domains" in self.streams and len(set(self.path)) < 2:
            raise ConfigError(
                f"the stream domains goes through at least 2 domains, but gets {', '.join(self.path)}; "
                "name more in --domains, or leave the stream out with --stream"
            )
        for domain in dict.fromkeys(self.path):
            self._check(self.halves(domain, self.seeds[0])[0])

    def entries(self, domain: str) -> tuple[Entry, ...]:
        """The files of a domain, the extra unknown ones among them."""
        return self.tree.domains[domain] + self.extra

    def halves(self, domain: str, seed: int) -> tuple[Material, tuple[Entry, ...]]:
        """What may be sent, and what is tested on."""
        entries = self.entries(domain)
        halves = split([entry.name for entry in entries], seed)
        sent = [entries[k] for k in halves.adapt]
        known = tuple(entry for entry in sent if entry.name in self.known)
        unknown = tuple(entry for entry in sent if entry.name not in self.known)
        tested = tuple(entries[k] for k in halves.test)
        return Material(domain, known, unknown, self.known), tested

    def draw(self, seed: int) -> Draw:
        """How much a seed's stream brings."""
        return Draw(self.repeat, seed)

    def _check(self, material: Material) -> None:
        domain = material.domain
        if not material.known:
            raise ConfigError(
                f"{domain} has fewer than 2 images of any class of {', '.join(self.known)}, so there is "
                "nothing to send; add images, or leave it out with --domains"
            )
        if "all-unknown" in self.streams and not material.unknown:
            raise ConfigError(
                f"{domain} has fewer than 2 images of any class that is not known, so there is nothing for "
                f"the stream all-unknown; name fewer in --known, give {EXTRA}, or leave it out with --stream"
            )


def plan(request: StreamRequest, settings: Settings, model: str) -> tuple[StreamCell, ...]:
    """Every cell: seed by seed the streams of one domain, domain by domain, then those of all.

    Args:
        request: what is asked for.
        settings: of the run.
        model: what tells it from any other, image and text tower.
    """
    alone = [stream for stream in request.streams if stream != "domains"]
    kinds: list[tuple[tuple[str, ...], Stream, tuple[float, ...]]] = [
        ((domain,), stream, (settings.learn.pull,))
        for domain, stream in product(dict.fromkeys(request.path), alone)
    ]
    if "domains" in request.streams:
        kinds.append((request.path, "domains", request.pulls))
    digests = {path: _digest(request, settings, model, path) for path, _, _ in kinds}
    return tuple(
        StreamCell(stream, path, guard, pull, seed, digests[path])
        for seed in request.seeds
        for path, stream, pulls in kinds
        for guard, pull in product(request.guards, pulls)
    )


def settings_of(cell: StreamCell, settings: Settings, home: Path) -> Settings:
    """The settings of a cell's service.

    Guard off is a guard that no candidate, window or label can fail. What is not finite is refused even so,
    and its temperature is then never fitted on labels.
    """
    learn = LearnSettings(**{**settings.learn.model_dump(), "seed": cell.seed, "pull": cell.pull})
    tune = settings.tune
    if cell.stream == "flipped-labels":  # each image comes with a label: one round of either kind
        tune = tune.model_copy(update={"labels_min": learn.round_images})
    guard = settings.guard
    if not cell.guard:
        guard = GuardSettings(**{**guard.model_dump(), **GUARD_OFF})
    changes = {"home": home, "learn": learn, "tune": tune, "guard": guard}
    return settings.model_copy(update=changes)


def choose_streams(names: Sequence[str]) -> tuple[Stream, ...]:
    """The streams of these names; without a wish all of them.

    Raises:
        ConfigError: there is none of that name.
    """
    missing = [name for name in names if name not in STREAMS]
    if missing:
        raise ConfigError(
            f"--stream names {', '.join(missing)}, which is no stream; choose from {', '.join(STREAMS)}"
        )
    return tuple(stream for stream in STREAMS if stream in names) or STREAMS


def choose_path(tree: Tree, text: str) -> tuple[str, ...]:
    """The domains of a comma list, in its order, again where it names one again.

    Without a wish every domain, and the first once more where there are several.

    Raises:
        ConfigError: a name the tree has not.
    """
    asked = [part.strip() for part in text.split(",") if part.strip()]
    found = choose_domains(tree, asked)
    if asked:
        return tuple(asked)
    return found + found[:1] if len(found) > 1 else found


def parse_guard(text: str) -> tuple[bool, ...]:
    """`on`, `off`, or both.

    Raises:
        ConfigError: anything else.

    Example:
        >>> parse_guard("on,off")
        (True, False)
    """
    parts = comma_list(text)
    if not parts or not set(parts) <= {"on", "off"}:
        raise ConfigError(f"--guard is {text!r}; expected on, off, or on,off")
    return tuple(part == "on" for part in parts)


def parse_pulls(text: str) -> tuple[float, ...]:
    """A comma list of shares.

    Raises:
        ConfigError: not numbers in [0, 1].

    Example:
        >>> parse_pulls("0,0.5")
        (0.0, 0.5)
    """
    try:
        pulls = tuple(dict.fromkeys(float(part) for part in comma_list(text)))
    except ValueError:
        pulls = ()
    if not pulls or not all(0 <= pull <= 1 for pull in pulls):
        raise ConfigError(f"--pull is {text!r}; expected shares in [0, 1] like 0,0.1,0.5")
    return pulls


def _digest(request: StreamRequest, settings: Settings, model: str, path: Sequence[str]) -> str:
    files = {domain: files_digest(request.entries(domain)) for domain in path}
    content = {
        "model": [settings.model, model],
        "known": request.known,
        "prompt": settings.prompt,
        "files": files,
        "repeat": request.repeat,
        "images": settings.images.model_dump(mode="json"),
        "learn": settings.learn.model_dump(mode="json", exclude=WITHOUT_EFFECT),
        "tune": settings.tune.model_dump(mode="json"),
        "ood": settings.ood.model_dump(mode="json"),
        "guard": settings.guard.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
