"""The dashboard of learning: rounds, candidates, labels."""

from __future__ import annotations

from deploy.grafana.panels import (
    RATE,
    RECORDED,
    WORKER,
    Limits,
    Panel,
    Query,
    Words,
    board,
    mean,
    number,
    series,
)


def now() -> list[Panel]:
    """Whether it learns at all."""
    return [
        number(
            Words(
                "Worker",
                "bool_yes_no",
                "Whether the worker can be scraped. If not, nothing is learned; what serves goes on: "
                "runbook, AdaptsvcWorkerDead.",
            ),
            Query(f"min(up{{{WORKER}}})", "up"),
            Limits(1, falling=True),
        ),
        number(
            Words(
                "Promoted in 6 hours",
                "none",
                "Rounds whose candidate serves. 0 with images in the stream: look at the outcomes "
                "below.",
            ),
            Query(f'sum(adaptsvc:rounds:increase6h{{{RECORDED},outcome="promoted"}})', "promoted"),
        ),
        number(
            Words(
                "Refused or failed in 6 hours",
                "none",
                "Candidates that came to nothing; the reasons are in `adaptsvc versions list`: "
                "runbook, AdaptsvcRoundsRefused.",
            ),
            Query(
                f'sum(adaptsvc:rounds:increase6h{{{RECORDED},outcome=~"refused|failed"}})',
                "refused",
            ),
            Limits(3, warn=1),
        ),
        *holds(),
    ]


def holds() -> list[Panel]:
    """What keeps it from learning, and how good it is."""
    return [
        number(
            Words(
                "Skipped in 6 hours",
                "none",
                "Rounds not tried: learning is frozen, a person holds what serves, or the window is "
                "not fit: runbook, AdaptsvcLearningFrozen.",
            ),
            Query(f'sum(adaptsvc:rounds:increase6h{{{RECORDED},outcome="skipped"}})', "skipped"),
            Limits(3, warn=1),
        ),
        number(
            Words(
                "Went back",
                "none",
                "Times since its start that the worker made an earlier version serve: runbook, "
                "AdaptsvcWentBack.",
            ),
            Query(f"sum(adaptsvc_returns_total{{{WORKER}}})", "returns"),
            Limits(1),
        ),
        number(
            Words(
                "Accuracy, estimated",
                "percentunit",
                "Of the version promoted last, on its window, without labels: as good as the "
                "calibration, and no substitute for labels. A fall over weeks: `adaptsvc versions "
                "diff`.",
            ),
            Query(f"max(adaptsvc_accuracy_estimate{{{WORKER}}})", "estimate"),
        ),
    ]


def rounds() -> list[Panel]:
    """What rounds come to."""
    return [
        series(
            Words(
                "Rounds in an hour",
                "none",
                "By outcome. Many `refused`: AdaptsvcRoundsRefused. Many `skipped`: "
                "AdaptsvcLearningFrozen. `stopped` is a restart or shared state that did not answer; "
                "`conflict` is somebody else who promoted.",
            ),
            Query(
                f"sum by (outcome) (increase(adaptsvc_rounds_total{{{WORKER}}}[1h]))", "{{outcome}}"
            ),
        ),
        series(
            Words(
                "Rounds by method in an hour",
                "none",
                "Which objective they had; rounds on labels have the method of `tune.method`. None "
                "though images come: `learn.round_images` is larger than what comes.",
            ),
            Query(
                f"sum by (method) (increase(adaptsvc_rounds_total{{{WORKER}}}[1h]))",
                "{{method}}",
            ),
        ),
        series(
            Words(
                "Time of a round",
                "s",
                "Mean of an hour. Nothing is read meanwhile: with Kafka it has to stay under "
                "`stream.kafka.max_poll_interval_s`. Too long: fewer `learn.passes`, a smaller "
                "window, a GPU.",
            ),
            Query(
                mean("adaptsvc_round_seconds", WORKER, "[1h]"),
                "mean",
            ),
            limits=Limits(300, warn=120),
        ),
        series(
            Words(
                "Images learned from in an hour",
                "none",
                "Images that rounds have stepped on, those of a window again in each round. 0 though "
                "images come: see the outcomes.",
            ),
            Query(f"sum(increase(adaptsvc_round_images_total{{{WORKER}}}[1h]))", "images"),
        ),
    ]


def candidates() -> list[Panel]:
    """What the guard looks at."""
    return [
        series(
            Words(
                "Agreement with zero-shot",
                "percentunit",
                "Of the last candidate, where the zero-shot model is sure. Under `guard.agreement` "
                "candidates are refused: the stream pulls the model away from its classes.",
            ),
            Query(f"adaptsvc_agreement_with_zero_shot{{{WORKER}}}", "{{instance}}"),
            limits=Limits(0.8, falling=True),
        ),
        series(
            Words(
                "Marginal entropy",
                "none",
                "Nats, of the last candidate. A fall towards 0 is a collapse into few classes; the "
                "guard refuses it. Check that the stream shows all classes.",
            ),
            Query(f"adaptsvc_marginal_entropy_nats{{{WORKER}}}", "{{instance}}"),
        ),
        series(
            Words(
                "Temperature",
                "none",
                "Of the last candidate. Far over 1: the model is much surer than it is right; a "
                "steady rise says that learning only sharpens. Give it labels (`adaptsvc label`).",
            ),
            Query(f"adaptsvc_temperature{{{WORKER}}}", "{{instance}}"),
        ),
    ]


def labels() -> list[Panel]:
    """What is known for sure."""
    return [
        series(
            Words(
                "Labels joined",
                "cps",
                "Labels that found their image. None though some are given: the ids are not those of "
                "the stream.",
            ),
            Query(f"sum(rate(adaptsvc_labels_joined_total{{{WORKER}}}{RATE}))", "joined"),
        ),
        series(
            Words(
                "Labels waiting",
                "none",
                "For their image. A level that only rises: ids that never come; they end as dead "
                "letters after `tune.label_ttl_s`.",
            ),
            Query(f"sum(adaptsvc_labels_waiting{{{WORKER}}})", "waiting"),
        ),
        series(
            Words(
                "Trouble with labels",
                "cps",
                "By why. `unknown_class` and `expired` are dead letters: mend the cause, then "
                "`adaptsvc replay --from deadletter`. `contradicts` in numbers: two sources disagree.",
            ),
            Query(
                f"sum by (trouble) (rate(adaptsvc_label_trouble_total{{{WORKER}}}{RATE}))",
                "{{trouble}}",
            ),
        ),
    ]


def dashboard() -> str:
    """The dashboard as JSON."""
    text = "What the worker learns, and what becomes of it."
    rows = (
        ("Now", now()),
        ("Rounds", rounds()),
        ("Candidates", candidates()),
        ("Labels", labels()),
    )
    return board("adaptsvc-learning", "adaptsvc: learning", text, rows)
