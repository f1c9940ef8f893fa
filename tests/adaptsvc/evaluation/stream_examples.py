"""Results on streams as a journal holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from adaptsvc.evaluation.stream_journal import Figures, Moment, StreamResult
from adaptsvc.evaluation.stream_plan import StreamCell

CELL = StreamCell("one-class", ("photo",), True, 0.0, 0, "digest")
PATH = ("photo", "sketch", "clay", "photo")


def figures(**accuracy: float) -> Figures:
    """`figures(photo=0.5)`: by domain, other figures the same everywhere."""
    return {
        domain: {"accuracy": share, "ece": 0.1, "auroc": 0.75} for domain, share in accuracy.items()
    }


def moment(accuracy: float, **changes: Any) -> Moment:
    values: dict[str, Any] = {
        "sent": 16,
        "part": 0,
        "method": "ueo",
        "outcome": "promoted",
        "reasons": (),
        "action": "continue",
        "version": 1,
        "figures": figures(photo=accuracy),
    }
    return Moment(**{**values, **changes})


def result(cell: StreamCell = CELL, **changes: Any) -> StreamResult:
    """Zero-shot 50 %, then 40 %, then 75 %."""
    values: dict[str, Any] = {
        "cell": cell,
        "zero_shot": figures(photo=0.5),
        "moments": (moment(0.4), moment(0.75, sent=32, version=2)),
        "after_parts": (figures(photo=0.75),),
        "sent": (40,),
        "returns": 0,
        "dead_letters": 0,
        "skipped_images": 0,
        "seconds": 0.5,
    }
    return StreamResult(**{**values, **changes})


def domains_result(
    pull: float = 0.0,
    path: Sequence[str] = PATH,
    after: Sequence[Mapping[str, float]] = (
        {"photo": 0.8, "sketch": 0.4, "clay": 0.2},
        {"photo": 0.7, "sketch": 0.6, "clay": 0.2},
        {"photo": 0.6, "sketch": 0.5, "clay": 0.5},
        {"photo": 0.9, "sketch": 0.3, "clay": 0.4},
    ),
) -> StreamResult:
    """Four parts, of which the last comes again."""
    served = tuple(figures(**each) for each in after)
    return result(
        dataclasses.replace(CELL, stream="domains", domains=tuple(path), pull=pull),
        zero_shot=figures(photo=0.5, sketch=0.5, clay=0.5),
        moments=tuple(moment(0, sent=10 * k, figures=each) for k, each in enumerate(served, 1)),
        after_parts=served,
        sent=tuple(10 * k for k in range(1, len(served) + 1)),
    )
