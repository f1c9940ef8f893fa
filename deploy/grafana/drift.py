"""The dashboard of drift: whether the images are still those that were learned from."""

from __future__ import annotations

from deploy.grafana.panels import (
    RATE,
    RECORDED,
    SERVICE,
    WORKER,
    Limits,
    Panel,
    Query,
    Words,
    board,
    quantile,
    series,
)

ANSWERED = f"rate(adaptsvc_predictions_total{{{SERVICE}}}{RATE})"


def signals() -> list[Panel]:
    """What the worker compares, as every service process repeats it."""
    return [
        series(
            Words(
                "Drift",
                "none",
                "Each signal of the window against its reference. Which one moves says what changed: "
                "`embedding` the pictures, `classes` the mix, `confidence` and `entropy` how sure, "
                "`ood` strangers, `decode` broken bytes: runbook, AdaptsvcDrift.",
            ),
            Query(f"max by (signal) (adaptsvc_drift{{{SERVICE}}})", "{{signal}}"),
        ),
        series(
            Words(
                "Alarms",
                "bool_on_off",
                "Signals beyond their threshold. One that stays on for long: look at recent images, "
                "then let it learn, or label some.",
            ),
            Query(f"max by (signal) (adaptsvc_drift_alarm{{{SERVICE}}})", "{{signal}}"),
            limits=Limits(1),
        ),
    ]


def answers() -> list[Panel]:
    """What the service says."""
    return [
        series(
            Words(
                "Out of distribution",
                "percentunit",
                "Share of the images, of 15 minutes and of a day. Far over the day: somebody sends "
                "other pictures: runbook, AdaptsvcOodSurge. Always high: fit the threshold with "
                "labels (`ood.accepted`).",
            ),
            Query(f"max(adaptsvc:ood:ratio_rate15m{{{RECORDED}}})", "15 minutes"),
            Query(f"max(adaptsvc:ood:ratio_rate1d{{{RECORDED}}})", "day"),
            limits=Limits(0.2),
        ),
        series(
            Words(
                "Confidence and estimated accuracy",
                "percentunit",
                "Mean confidence of the last hour beside the accuracy estimated at the last "
                "promotion. Apart by 0.15: the calibration is stale: runbook, "
                "AdaptsvcCalibrationStale.",
            ),
            Query(f"max(adaptsvc:confidence:mean_rate1h{{{RECORDED}}})", "confidence"),
            Query(f"max(adaptsvc_accuracy_estimate{{{WORKER}}})", "estimate"),
        ),
        series(
            Words(
                "Classes",
                "percentunit",
                "Share of the answers. A class that takes over, or vanishes, though the world did not"
                " change, is a collapse: `adaptsvc versions activate` of an earlier version.",
            ),
            Query(
                f"sum by (label) ({ANSWERED}) / ignoring (label) group_left sum({ANSWERED})",
                "{{label}}",
            ),
        ),
        *spreads(),
    ]


def spreads() -> list[Panel]:
    """How far the answers lie apart, and what got none."""
    return [
        series(
            Words(
                "Confidence, quantiles",
                "percentunit",
                "Of the chosen class. The lower decile falls first when the pictures change; "
                "everything near 1 is overconfidence.",
            ),
            Query(quantile("0.1", f"adaptsvc_confidence_bucket{{{SERVICE}}}"), "lower decile"),
            Query(quantile("0.5", f"adaptsvc_confidence_bucket{{{SERVICE}}}"), "median"),
        ),
        series(
            Words(
                "OOD score, quantiles",
                "none",
                "In the unit of `ood.score`; higher is stranger. The upper decile at the threshold is"
                " normal, the median there is not.",
            ),
            Query(quantile("0.5", f"adaptsvc_ood_score_bucket{{{SERVICE}}}"), "median"),
            Query(quantile("0.9", f"adaptsvc_ood_score_bucket{{{SERVICE}}}"), "upper decile"),
        ),
        series(
            Words(
                "What became no picture",
                "percentunit",
                "Share of requests and of stream messages in 15 minutes. Over 0.1: a sender is "
                "broken, or an attack: runbook, AdaptsvcDecodeFailures.",
            ),
            Query(
                f"max by (where) (adaptsvc:undecodable:ratio_rate15m{{{RECORDED}}})", "{{where}}"
            ),
            limits=Limits(0.1),
        ),
    ]


def dashboard() -> str:
    """The dashboard as JSON."""
    text = "Whether images and answers are still like those learned from."
    rows = (
        ("Signals", signals()),
        ("Answers", answers()),
    )
    return board("adaptsvc-drift", "adaptsvc: drift", text, rows)
