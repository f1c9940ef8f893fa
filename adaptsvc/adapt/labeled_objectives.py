"""The labeled objectives by name; it knows nothing of what any of them computes."""

from __future__ import annotations

from collections.abc import Mapping

from adaptsvc.adapt.carot import CaRot
from adaptsvc.adapt.core import CoreTuning
from adaptsvc.adapt.labeled import LabeledObjective
from adaptsvc.adapt.supervised import CrossEntropy, LabelSmoothing, SupervisedContrastive
from adaptsvc.adapt.tes import TextSupervised
from adaptsvc.errors import ObjectiveError

LABELED: Mapping[str, type[LabeledObjective]] = {
    "cross-entropy": CrossEntropy,
    "label-smoothing": LabelSmoothing,
    "supervised-contrastive": SupervisedContrastive,
    "core": CoreTuning,
    "tes": TextSupervised,
    "carot": CaRot,
}


def labeled_objective(name: str) -> type[LabeledObjective]:
    """The labeled objective of that name.

    Raises:
        ObjectiveError: there is none.
    """
    try:
        return LABELED[name]
    except KeyError as exc:
        raise ObjectiveError(
            f"no labeled objective is called {name!r}; choose one of {', '.join(LABELED)}"
        ) from exc
