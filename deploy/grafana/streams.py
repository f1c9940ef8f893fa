"""The dashboard of the streams: what flows, what waits, what is kept."""

from __future__ import annotations

from deploy.grafana.panels import (
    CHOSEN,
    RATE,
    SERVICE,
    WORKER,
    Limits,
    Panel,
    Query,
    Words,
    board,
    number,
    series,
)

BOTH = f'job=~"adaptsvc-(service|worker)",{CHOSEN}'


def now() -> list[Panel]:
    """What has to be right at this moment."""
    return [
        number(
            Words(
                "Unread",
                "none",
                "Messages that the worker has not read. More than some rounds' worth, and rising: "
                "runbook, AdaptsvcLagGrowing.",
            ),
            Query(f"sum(adaptsvc_stream_lag_messages{{{WORKER}}})", "unread"),
            Limits(10000, warn=1000),
        ),
        number(
            Words(
                "Age of the checkpoint",
                "s",
                "Old is right while nothing comes. While the worker reads: runbook, "
                "AdaptsvcCheckpointOld.",
            ),
            Query(f"time() - max(adaptsvc_checkpoint_timestamp_seconds{{{WORKER}}})", "age"),
            Limits(7200, warn=1800),
        ),
        number(
            Words(
                "Waiting for room",
                "bool_yes_no",
                "The worker found a disk full and waits; it goes on by itself: runbook, AdaptsvcDiskFull.",
            ),
            Query(f"max(adaptsvc_disk_full{{{WORKER}}})", "full"),
            Limits(1),
        ),
        *trouble(),
    ]


def trouble() -> list[Panel]:
    """What was out of reach, or could not be read."""
    return [
        number(
            Words(
                "Shared state answers",
                "bool_yes_no",
                "Of all processes; files always do. If not: runbook, AdaptsvcStateGone.",
            ),
            Query(f"min(adaptsvc_state_up{{{BOTH}}})", "up"),
            Limits(1, falling=True),
        ),
        number(
            Words(
                "Checkpoints refused",
                "none",
                "That the worker could not read at its start; it took the one before, or began with "
                "the offsets of the stream. Its log says why: docs/operations.md, How to recover.",
            ),
            Query(f"sum(adaptsvc_checkpoints_refused_total{{{WORKER}}})", "refused"),
            Limits(1),
        ),
        number(
            Words(
                "Outages of the state",
                "none",
                "Counted per process since its start. Many short ones: the network to Redis, or "
                "`state.timeout_s` is too tight.",
            ),
            Query(f"sum(adaptsvc_state_outages_total{{{BOTH}}})", "outages"),
            Limits(10, warn=1),
        ),
    ]


def flow() -> list[Panel]:
    """What comes, and what becomes of it."""
    return [
        series(
            Words(
                "Unread messages",
                "none",
                "Teeth are rounds, during which nothing is read. A ramp is a worker that is too slow:"
                " runbook, AdaptsvcLagGrowing.",
            ),
            Query(f"adaptsvc_stream_lag_messages{{{WORKER}}}", "{{instance}}"),
            limits=Limits(1000),
        ),
        series(
            Words(
                "Messages read",
                "cps",
                "By topic and outcome. `dead_letter`: the reason is in the message's headers; "
                "`duplicate` is a sender that repeats itself, or a worker that reads again after a "
                "restart.",
            ),
            Query(
                f"sum by (topic, outcome) (rate(adaptsvc_messages_total{{{WORKER}}}{RATE}))",
                "{{topic}} {{outcome}}",
            ),
        ),
        series(
            Words(
                "Samples of the service",
                "cps",
                "Answered images for the stream. `over_cap`: more than `sample.per_second`. "
                "`queue_full`, `log_refused`: the stream is slow, full or gone.",
            ),
            Query(
                f"sum by (outcome) (rate(adaptsvc_samples_total{{{SERVICE}}}{RATE}))", "{{outcome}}"
            ),
        ),
    ]


def state() -> list[Panel]:
    """What a restart goes back to."""
    return [
        series(
            Words(
                "Age of the checkpoint over time",
                "s",
                "Rises while nothing comes or a round runs, and falls to 0 with each checkpoint. A "
                "rise with messages: AdaptsvcCheckpointOld.",
            ),
            Query(f"time() - adaptsvc_checkpoint_timestamp_seconds{{{WORKER}}}", "{{instance}}"),
            limits=Limits(1800),
        ),
        series(
            Words(
                "Who reaches the shared state",
                "bool_yes_no",
                "Each instance. One that does not: its network. None does: Redis: runbook, "
                "AdaptsvcStateGone.",
            ),
            Query(f"adaptsvc_state_up{{{BOTH}}}", "{{job}} {{instance}}"),
            limits=Limits(1, falling=True),
        ),
        series(
            Words(
                "Can be scraped",
                "bool_yes_no",
                "Service and worker. 0 is a process that is gone, or a network policy: "
                "AdaptsvcServiceDown, AdaptsvcWorkerDead.",
            ),
            Query(f"up{{{BOTH}}}", "{{job}} {{instance}}"),
            limits=Limits(1, falling=True),
        ),
    ]


def dashboard() -> str:
    """The dashboard as JSON."""
    text = "Messages, checkpoints and what the processes share."
    rows = (
        ("Now", now()),
        ("Flow", flow()),
        ("State", state()),
    )
    return board("adaptsvc-streams", "adaptsvc: streams", text, rows)
