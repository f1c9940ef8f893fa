"""Whether a candidate that answered live images beside the version that serves may take its place.

It knows nothing of images, processes or clocks: figures and an age come in, a verdict comes out. It is given
once for one window of images, so looking at the figures again and again makes no limit easier to cross.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

ShadowReason: TypeAlias = Literal[
    "shadow_agreement",
    "shadow_confidence",
    "shadow_latency",
    "shadow_failed",
    "shadow_timeout",
]


@dataclass(frozen=True, slots=True)
class Tally:
    """Sums over images; those of several processes are added.

    Attributes:
        images: that both versions answered.
        agreed: to which both gave the same class.
        shift: sum of the candidate's confidence minus the served one.
        absolute_shift: sum of its absolute values.
        pairs: images that both computed one after the other, timed.
        log_ratio: sum of log(seconds of the candidate / seconds of the served version) over the pairs.
        candidate_s: seconds of the candidate over the pairs.
        served_s: seconds of the served version over the pairs.
        dropped: chosen images that were not computed, because there was no time.

    Example:
        >>> both = Tally(images=3, agreed=2, shift=0.3) + Tally(images=1, agreed=1, shift=-0.1)
        >>> both.images, both.agreement, round(both.mean_shift, 3), both.latency_ratio
        (4, 0.75, 0.05, None)
    """

    images: int = 0
    agreed: int = 0
    shift: float = 0.0
    absolute_shift: float = 0.0
    pairs: int = 0
    log_ratio: float = 0.0
    candidate_s: float = 0.0
    served_s: float = 0.0
    dropped: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        names = (field.name for field in fields(self))
        return Tally(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def agreement(self) -> float | None:
        """Share of the images to which both gave the same class; None without images."""
        return self.agreed / self.images if self.images else None

    @property
    def mean_shift(self) -> float | None:
        """Mean confidence of the candidate minus that of the served version."""
        return self.shift / self.images if self.images else None

    @property
    def mean_absolute_shift(self) -> float | None:
        """Mean distance between both confidences of one image."""
        return self.absolute_shift / self.images if self.images else None

    @property
    def latency_ratio(self) -> float | None:
        """Geometric mean of the pairs' ratios: one pair that was interrupted weighs little in it."""
        return math.exp(self.log_ratio / self.pairs) if self.pairs else None


@dataclass(frozen=True, slots=True)
class ShadowLimits:
    """What a candidate must show; see `adaptsvc.shadow_section.ShadowSettings`."""

    min_images: int
    min_agreement: float
    max_confidence_shift: float
    max_latency_ratio: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What the figures come to: nothing yet, or a verdict with what speaks against the candidate."""

    decided: bool
    reasons: tuple[ShadowReason, ...] = ()


def judge(tally: Tally, limits: ShadowLimits, *, age_s: float, failed: bool) -> Finding:
    """Decide on a candidate when its window is full, when it failed, or when its time is over.

    Args:
        tally: of all processes.
        limits: what it must show.
        age_s: since it was put on trial.
        failed: a service process could not load it, or it gave no numbers.

    Example:
        >>> limits = ShadowLimits(4, 0.8, 0.2, 1.5, 60.0)
        >>> judge(Tally(images=4, agreed=4), limits, age_s=1.0, failed=False)
        Finding(decided=True, reasons=())
        >>> judge(Tally(images=3, agreed=0), limits, age_s=1.0, failed=False)
        Finding(decided=False, reasons=())
        >>> judge(Tally(images=3, agreed=3), limits, age_s=60.0, failed=False).reasons
        ('shadow_timeout',)
    """
    if failed:
        return Finding(True, ("shadow_failed",))
    if tally.images < limits.min_images:
        late = age_s >= limits.timeout_s
        return Finding(late, ("shadow_timeout",) if late else ())
    found: dict[ShadowReason, bool] = {
        "shadow_agreement": (tally.agreement or 0.0) < limits.min_agreement,
        "shadow_confidence": abs(tally.mean_shift or 0.0) > limits.max_confidence_shift,
        "shadow_latency": (tally.latency_ratio or 0.0) > limits.max_latency_ratio,
    }
    return Finding(True, tuple(reason for reason, against in found.items() if against))
