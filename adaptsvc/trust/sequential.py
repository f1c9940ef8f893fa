"""Whether a stream has changed, looked at after every image without looking too often; numpy only."""

from __future__ import annotations

import math

SIGNALS = 6


def threshold(images_per_false_alarm: int) -> float:
    """The evidence, in nats, at which one of six signals is an alarm."""
    return math.log1p(SIGNALS * images_per_false_alarm)
