"""What is to be measured: the options of the command, checked, and the cells they come to.

It knows nothing of models or of how a cell is run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from adaptsvc.evaluation.data import EXTRA, Entry, Tree, files_digest
from adaptsvc.evaluation.journal import Cell
from adaptsvc.evaluation.split import OPEN, Setting

# What changes no figure: threads and rounds of the worker, and what a cell says itself.
WITHOUT_EFFECT = {
    "objective",
    "seed",
    "threads",
    "niceness",
    "round_images",
    "window_images",
    "checkpoint_interval_s",
    "metrics_port",
}


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    Attributes:
        tree: the data set.
        known: L, the class names the model is given.
        extra: images of no known class, besides those of the tree.
        domains: of the tree.
        methods: names in `adaptsvc.evaluation.methods.METHODS`.
        settings: which classes are present.
        seeds: of split and learning.
        guard: whether a window or candidate the guard refuses counts as zero-shot.
        labels: share of the labels that methods with labels are given, in (0, 1].
        leave_out: whether a domain's own images are left out of what is learned from; the others' are all in.
        out: the folder of results.

    Raises:
        ConfigError: an open setting, but no image of an unknown class.
    """

    tree: Tree
    known: tuple[str, ...]
    extra: tuple[Entry, ...]
    domains: tuple[str, ...]
    methods: tuple[str, ...]
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    guard: bool
    out: Path
    labels: float = 1.0
    leave_out: bool = False

    def __post_init__(self) -> None:
        asked = [setting for setting in self.settings if setting in OPEN]
        for domain in self.domains:
            if asked and not any(e.name not in self.known for e in self.entries(domain)):
                raise ConfigError(
                    f"every class of {domain} is known, so nothing is unknown in setting {asked[0]}; name "
                    f"fewer in --known, give {EXTRA}, or leave it out with --setting"
                )

    def entries(self, domain: str) -> tuple[Entry, ...]:
        """The files of a domain, the extra unknown ones among them."""
        return self.tree.domains[domain] + self.extra


def plan(request: Request, settings: Settings, model: str) -> tuple[Cell, ...]:
    """Every cell, domain by domain and seed by seed.

    Args:
        request: what is asked for.
        settings: of the run.
        model: what tells the model from any other.
    """
    digests = {domain: _digest(request, settings, model, domain) for domain in request.domains}
    return tuple(
        Cell(domain, setting, method, seed, digests[domain])
        for domain in request.domains
        for seed in request.seeds
        for setting in request.settings
        for method in request.methods
    )


def _digest(request: Request, settings: Settings, model: str, domain: str) -> str:
    content = {
        "model": [settings.model, model],
        "known": request.known,
        "prompt": settings.prompt,
        "files": files_digest(request.entries(domain)),
        "images": settings.images.model_dump(mode="json"),
        "learn": settings.learn.model_dump(mode="json", exclude=WITHOUT_EFFECT),
        "ood": settings.ood.score,
        "guard": [request.guard, settings.guard.model_dump(mode="json")],
        "tune": settings.tune.model_dump(mode="json", exclude={"method"}),
        "labels": request.labels,
        "leave_out": request.leave_out
        and files_digest(entry for entries in request.tree.domains.values() for entry in entries),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def comma_list(text: str) -> tuple[str, ...]:
    """The parts of a comma list, blanks and repetitions left out.

    Example:
        >>> comma_list("dog, cat,,dog")
        ('dog', 'cat')
    """
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def parse_seeds(text: str) -> tuple[int, ...]:
    """A comma list of seeds, or how many from 0 on; a lone 0 is the seed 0.

    Raises:
        ConfigError: not whole numbers from 0 on.

    Example:
        >>> parse_seeds("3"), parse_seeds("5,7"), parse_seeds("4,"), parse_seeds("0")
        ((0, 1, 2), (5, 7), (4,), (0,))
    """
    parts = comma_list(text)
    if not parts or not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--seeds is {text!r}; expected seeds like 0,1,2 or how many, like 3")
    seeds = tuple(int(part) for part in parts)
    return seeds if "," in text else tuple(range(max(1, seeds[0])))


def parse_share(text: str) -> float:
    """A share in (0, 1] from a percentage or a number.

    Raises:
        ConfigError: neither, or out of range.

    Example:
        >>> parse_share("10%"), parse_share("0.5")
        (0.1, 0.5)
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError(f"--labels is {text!r}; expected a share like 10% or 0.1, at most 100%")
    return share
