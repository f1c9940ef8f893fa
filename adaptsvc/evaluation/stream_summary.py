"""Results on streams to what is reported: final and worst accuracy, what must hold, forgetting.

It knows nothing of files or tables. Where a stream goes through several domains, a figure is the mean over
them, each counted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptsvc.evaluation.stream_journal import Figures, StreamResult
from adaptsvc.evaluation.stream_kinds import Stream
from adaptsvc.evaluation.summary import Spread, spread
from adaptsvc.types import Float64

ALLOWED_LOSS = 0.01  # of accuracy, against zero-shot


@dataclass(frozen=True, slots=True)
class StreamRow:
    """One kind of stream on one path of domains, with or without guard, at one pull; over the seeds.

    Attributes:
        final: accuracy of what serves at the end.
        worst: least accuracy of anything that ever served, over all seeds.
        margin: final accuracy over what must hold, zero-shot less a point; of the worst seed.
        ece: of what serves at the end.
        zero_shot_ece: of zero-shot, on the same images.
        auroc: unknown against known images at the end; None without unknown ones.
        zero_shot_auroc: the same of zero-shot.
        rounds: how many came to what, all seeds together.
        reasons: why rounds brought nothing new, counted.
        returns: to an earlier version, all seeds together.
        dead_letters: all seeds together.
        forgetting: None of a stream of one domain.
        zero_shot_by_domain: accuracies.
        after_parts: the same of what served after each part, by part.
    """

    stream: Stream
    domains: tuple[str, ...]
    guard: bool
    pull: float
    zero_shot: Spread
    final: Spread
    worst: float
    margin: float
    ece: Spread
    zero_shot_ece: Spread
    auroc: Spread | None
    zero_shot_auroc: Spread | None
    rounds: dict[str, int]
    reasons: dict[str, int]
    returns: int
    dead_letters: int
    forgetting: Spread | None
    zero_shot_by_domain: dict[str, float]
    after_parts: tuple[dict[str, float], ...]

    @property
    def holds(self) -> bool:
        """Whether the service ends no more than a point under zero-shot, with every seed."""
        return self.margin >= -1e-9


def summarise_streams(results: Sequence[StreamResult]) -> tuple[StreamRow, ...]:
    """One row per stream, path, guard and pull, in the order they come."""
    groups: dict[tuple[Stream, tuple[str, ...], bool, float], list[StreamResult]] = {}
    for result in results:
        cell = result.cell
        key = (cell.stream, cell.domains, cell.guard, cell.pull)
        groups.setdefault(key, []).append(result)
    return tuple(_row(members) for members in groups.values())


def mean_of(figures: Figures, name: str) -> float:
    """A figure's mean over the domains that have it.

    Example:
        >>> mean_of({"photo": {"accuracy": 0.5}, "sketch": {"accuracy": 0.25}}, "accuracy")
        0.375
    """
    return float(np.mean([of[name] for of in figures.values() if name in of]))


def accuracies(result: StreamResult) -> Float64:
    """Mean accuracy over the domains of zero-shot and after each round: (1 + rounds,)."""
    served = [result.zero_shot, *(moment.figures for moment in result.moments)]
    return np.array([mean_of(figures, "accuracy") for figures in served])


def forgetting(path: Sequence[str], after_parts: Sequence[Mapping[str, float]]) -> float | None:
    """Mean over the earlier domains of accuracy right after learning one, less that at the end.

    Earlier are those other than the last part's; one learned again counts from its last time. None of one
    domain. Below 0, later domains helped the earlier ones.

    Args:
        path: (P,) the domain of each part.
        after_parts: (P,) accuracy by domain after each part.

    Example:
        >>> after = [{"photo": 0.75, "sketch": 0.25}, {"photo": 0.5, "sketch": 0.5}]
        >>> forgetting(["photo", "sketch"], after)
        0.25
    """
    last = {domain: part for part, domain in enumerate(path)}
    earlier = {domain: part for domain, part in last.items() if domain != path[-1]}
    if not earlier:
        return None
    end = after_parts[-1]
    lost = [after_parts[part][domain] - end[domain] for domain, part in earlier.items()]
    return float(np.mean(lost))


def _row(results: Sequence[StreamResult]) -> StreamRow:
    cell = results[0].cell
    finals = [result.after_parts[-1] for result in results]
    starts = [result.zero_shot for result in results]
    before, after = _of(starts, "accuracy"), _of(finals, "accuracy")
    moments = [moment for result in results for moment in result.moments]
    lost = [forgetting(cell.domains, _by_part(result)) for result in results]
    known = [value for value in lost if value is not None]
    parts = zip(*(_by_part(result) for result in results), strict=True)
    has_unknown = all("auroc" in of for figures in starts for of in figures.values())
    return StreamRow(
        stream=cell.stream,
        domains=cell.domains,
        guard=cell.guard,
        pull=cell.pull,
        zero_shot=spread(before),
        final=spread(after),
        worst=min(float(accuracies(result).min()) for result in results),
        margin=min(a - b for a, b in zip(after, before, strict=True)) + ALLOWED_LOSS,
        ece=spread(_of(finals, "ece")),
        zero_shot_ece=spread(_of(starts, "ece")),
        auroc=spread(_of(finals, "auroc")) if has_unknown else None,
        zero_shot_auroc=spread(_of(starts, "auroc")) if has_unknown else None,
        rounds=dict(Counter(moment.outcome for moment in moments)),
        reasons=dict(Counter(_words(reason) for moment in moments for reason in moment.reasons)),
        returns=sum(result.returns for result in results),
        dead_letters=sum(result.dead_letters for result in results),
        forgetting=spread(known) if known else None,
        zero_shot_by_domain=_mean_by_domain([_accuracy(figures) for figures in starts]),
        after_parts=tuple(_mean_by_domain(of_seeds) for of_seeds in parts),
    )


def _of(each: Sequence[Figures], name: str) -> list[float]:
    return [mean_of(figures, name) for figures in each]


def _accuracy(figures: Figures) -> dict[str, float]:
    return {domain: of["accuracy"] for domain, of in figures.items()}


def _by_part(result: StreamResult) -> list[dict[str, float]]:
    return [_accuracy(figures) for figures in result.after_parts]


def _mean_by_domain(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {domain: float(np.mean([of[domain] for of in seeds])) for domain in seeds[0]}


def _words(reason: str) -> str:
    """A reason to count by: that of a failed round is a message with figures in it."""
    return reason if reason.isidentifier() else "failed"
