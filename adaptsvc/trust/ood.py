"""Scores that say whether an image belongs to any known class; numpy only.

It knows nothing of models or versions. Every score is higher for images less like the known classes, and is
taken on raw logits, before the calibration temperature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from adaptsvc.trust.calibration import softmax
from adaptsvc.types import Float64


def msp(logits: Float64, logit_scale: float) -> Float64:
    """1 - the largest probability (Hendrycks & Gimpel, ICLR 2017). (N, C) -> (N,)."""
    result: Float64 = 1.0 - softmax(logits).max(axis=-1)
    return result


def mcm(logits: Float64, logit_scale: float) -> Float64:
    """1 - the largest probability of the cosines at temperature 1 (Ming et al., NeurIPS 2022)."""
    result: Float64 = 1.0 - softmax(logits / logit_scale).max(axis=-1)
    return result


def energy(logits: Float64, logit_scale: float) -> Float64:
    """-logsumexp of the logits (Liu et al., NeurIPS 2020)."""
    peak = logits.max(axis=-1)
    result: Float64 = -(np.log(np.exp(logits - peak[:, None]).sum(axis=-1)) + peak)
    return result


def max_logit(logits: Float64, logit_scale: float) -> Float64:
    """- the largest logit (Hendrycks et al., ICML 2022)."""
    result: Float64 = -logits.max(axis=-1)
    return result


def entropy(logits: Float64, logit_scale: float) -> Float64:
    """Entropy of the probabilities in nats."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    result: Float64 = -(np.exp(log_p) * log_p).sum(axis=-1)
    return result


SCORES: Mapping[str, Callable[[Float64, float], Float64]] = {
    "msp": msp,
    "mcm": mcm,
    "energy": energy,
    "max_logit": max_logit,
    "entropy": entropy,
}


def acceptance_threshold(scores: Float64, accepted: float = 0.95) -> float:
    """The score under which a share `accepted` of these images lies.

    Raises:
        ValueError: no scores, or a share outside (0, 1).
    """
    if len(scores) == 0 or not 0 < accepted < 1:
        raise ValueError(
            f"got {len(scores)} scores and a share of {accepted}; expected 1 or more and a share in (0, 1)"
        )
    return float(np.quantile(scores, accepted))


def auroc(known: Float64, unknown: Float64) -> float:
    """Probability that an unknown image scores above a known one, ties counting half.

    Args:
        known: (N,) scores of images of known classes.
        unknown: (M,) scores of the others.

    Example:
        >>> auroc(np.array([0.1, 0.2]), np.array([0.3, 0.2]))
        0.875
    """
    if len(known) == 0 or len(unknown) == 0:
        raise ValueError(f"got {len(known)} known and {len(unknown)} unknown scores; both need 1")
    order = np.sort(known)
    below = np.searchsorted(order, unknown, side="left")
    through = np.searchsorted(order, unknown, side="right")
    return float((below + through).mean() / 2 / len(known))


def false_positive_rate(known: Float64, unknown: Float64, accepted: float = 0.95) -> float:
    """FPR at 95 % TPR: share of the unknown accepted at the least threshold that accepts 95 % of the known.

    Args:
        known: (N,) scores of images of known classes.
        unknown: (M,) scores of the others.
        accepted: share of the known accepted, at least, in (0, 1); an image is accepted at the threshold.

    Returns:
        In [0, 1], lower is better.

    Raises:
        ValueError: a group without images, a score that is not finite, or a share outside (0, 1).

    Example:
        >>> false_positive_rate(np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.2, 0.9]), accepted=0.5)
        0.5
    """
    if len(known) == 0 or len(unknown) == 0 or not 0 < accepted < 1:
        raise ValueError(
            f"got {len(known)} known and {len(unknown)} unknown scores and a share of {accepted}; "
            "both need 1 and a share in (0, 1)"
        )
    if not (np.isfinite(known).all() and np.isfinite(unknown).all()):
        raise ValueError("got a NaN or an Inf; expected finite scores: leave that image out")
    # Not interpolated: the threshold is a score that occurs, and accepts no less than the share.
    threshold = np.quantile(known, accepted, method="inverted_cdf")
    return float((unknown <= threshold).mean())
