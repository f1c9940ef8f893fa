"""Results as a journal holds them, and an interruption at a chosen moment."""

from __future__ import annotations

import threading
from typing import Any

from adaptsvc.evaluation.journal import Answers, Cell, Result

CELL = Cell("photo", "open", "ueo", 0, "digest")
FIGURES = {"accuracy": 0.5, "auroc": 0.75, "h": 0.6, "ece": 0.1}
ANSWERS = Answers(
    label=(0, 1, 1, -1),
    prediction=(0, 1, 0, 1),
    confidence=(0.9, 0.8, 0.7, 0.6),
    ood_score=(0.1, 0.2, 0.3, 0.4),
    logits=((2.0, 0.0), (0.0, 1.5), (1.0, 0.0), (0.0, 0.5)),
    window=((1.0, 0.0),),
)


def result(cell: Cell = CELL, **changes: Any) -> Result:
    values: dict[str, Any] = {
        "cell": cell,
        "figures": FIGURES,
        "reasons": (),
        "agreement": 1.0,
        "marginal_entropy_nats": 0.5,
        "refused": False,
        "losses": {"loss": 0.1},
        "adapt_images": 4,
        "skipped_images": 0,
        "seconds": 0.5,
        "answers": ANSWERS,
    }
    return Result(**{**values, **changes})


class StopAfter(threading.Event):
    """Ctrl-C at the n-th time anyone looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0
