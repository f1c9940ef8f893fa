"""The dashboard of the service: requests, inference, versions."""

from __future__ import annotations

from deploy.grafana.panels import (
    ANSWERS,
    RATE,
    RECORDED,
    SERVICE,
    Limits,
    Panel,
    Query,
    Words,
    board,
    mean,
    number,
    quantile,
    series,
)

REQUESTS = f"bentoml_service_request_total{{{SERVICE},{ANSWERS}}}"
SECONDS = f"bentoml_service_request_duration_seconds_bucket{{{SERVICE},{ANSWERS}}}"


def now() -> list[Panel]:
    """What has to be right at this moment."""
    return [
        number(
            Words(
                "Inference alive",
                "bool_yes_no",
                "Whether the canaries of all processes come back right. If not, the service cannot "
                "answer: runbook, AdaptsvcServiceNotReady.",
            ),
            Query(f"min(adaptsvc_inference_alive{{{SERVICE}}})", "alive"),
            Limits(1, falling=True),
        ),
        number(
            Words(
                "Serving version",
                "none",
                "The newest version that any process serves. A fall is a rollback: who or what went "
                "back is in `adaptsvc versions list`.",
            ),
            Query(f"max(adaptsvc:serving_version:max{{{RECORDED}}})", "version"),
        ),
        number(
            Words(
                "Requests not answered",
                "percentunit",
                "Share of the last hour's requests that got a 5xx or 429; 0.5 % of a month's may. If "
                "it burns: runbook, AdaptsvcErrorBudgetFast.",
            ),
            Query(f"max(adaptsvc:failed_requests:ratio_rate1h{{{RECORDED}}})", "failed"),
            Limits(0.072, warn=0.005),
        ),
        *fallbacks(),
    ]


def fallbacks() -> list[Panel]:
    """Whether all of it serves, and on what was asked for."""
    return [
        number(
            Words(
                "Version refused",
                "bool_yes_no",
                "Whether a process refuses the version that should serve. `refused` of GET /v1/model "
                "says why: runbook, AdaptsvcSwapFailing.",
            ),
            Query(f"max(adaptsvc_version_refused{{{SERVICE}}})", "refused"),
            Limits(1),
        ),
        number(
            Words(
                "On the CPU instead",
                "bool_yes_no",
                "Whether inference fell back to the CPU. It answers, more slowly: runbook, "
                "AdaptsvcProviderFallback.",
            ),
            Query(f"max(adaptsvc_device_fallback{{{SERVICE}}})", "fallback"),
            Limits(1),
        ),
        number(
            Words(
                "Processes",
                "none",
                "Service processes that answer; fewer than `serve.workers` for each instance means "
                "that some ended. Look into the log of the instance.",
            ),
            Query(f"count(adaptsvc_serving_version{{{SERVICE}}})", "processes"),
        ),
    ]


def requests() -> list[Panel]:
    """What users get."""
    return [
        series(
            Words(
                "Requests by status",
                "reqps",
                "Requests for answers. 429 is a full queue or a missed deadline: add replicas or "
                "cores. 503 is no version, failing inference or a stream that is busy. 4xx is what "
                "clients sent.",
            ),
            Query(
                f"sum by (http_response_code) (rate({REQUESTS}{RATE}))",
                "{{http_response_code}}",
            ),
        ),
        series(
            Words(
                "Time to the answer",
                "s",
                "Median and 99th percentile. If the 99th rises alone, look at queueing below; over "
                "`serve.slow_s` the worker is asked to wait.",
            ),
            Query(quantile("0.5", SECONDS), "median"),
            Query(quantile("0.99", SECONDS), "99th percentile"),
            limits=Limits(5, warn=0.5),
        ),
        series(
            Words(
                "Error budget burn",
                "none",
                "How many times as fast as allowed the budget of 0.5 % goes. Over 14.4 for an hour "
                "somebody is called: runbook, AdaptsvcErrorBudgetFast.",
            ),
            *[
                Query(
                    f"max(adaptsvc:failed_requests:ratio_rate{window}{{{RECORDED}}}) / 0.005",
                    window,
                )
                for window in ("5m", "1h", "6h", "3d")
            ],
            limits=Limits(14.4, warn=1),
        ),
        *refusals(),
    ]


def refusals() -> list[Panel]:
    """What users do not get, and what waits."""
    return [
        series(
            Words(
                "Turned away or given up",
                "reqps",
                "`queue`, `deadline`: too much load. `gone`: clients that do not wait. `connections`,"
                " `slow_body`: look for one client that does it.",
            ),
            Query(f"sum by (reason) (rate(adaptsvc_shed_total{{{SERVICE}}}{RATE}))", "{{reason}}"),
        ),
        series(
            Words(
                "Not let in",
                "reqps",
                "By why. `bad_key` in numbers is somebody who tries keys; `closed` is a service that "
                "starts. docs/security.md.",
            ),
            Query(f"sum by (why) (rate(adaptsvc_denied_total{{{SERVICE}}}{RATE}))", "{{why}}"),
        ),
        series(
            Words(
                "Under way",
                "none",
                "Images inside, and requests that BentoML holds. A level near `serve.queue_images` "
                "times the processes ends in 429: add replicas.",
            ),
            Query(f"sum(adaptsvc_inside_images{{{SERVICE}}})", "images"),
            Query(f"sum(bentoml_service_request_in_progress{{{SERVICE}}})", "requests"),
        ),
    ]


def inference() -> list[Panel]:
    """Where the time goes."""
    return [
        series(
            Words(
                "Stages, 99th percentile",
                "s",
                "`queue` high: too much load. `decode` high: large images, see `serve.decoders`. "
                "`infer` high: fewer threads than cores, or another process takes them.",
            ),
            Query(
                quantile("0.99", f"adaptsvc_stage_seconds_bucket{{{SERVICE}}}", "le, stage"),
                "{{stage}}",
            ),
        ),
        series(
            Words(
                "Images per inference call",
                "none",
                "Mean. Near `serve.batch_images` the service is saturated; 1 under load means that "
                "batches do not form, see `serve.batch_wait_s`.",
            ),
            Query(
                mean("adaptsvc_batch_images", SERVICE),
                "images",
            ),
        ),
        series(
            Words(
                "Images spared",
                "cps",
                "Images that were not computed since nobody waited any more. Much of it: clients have"
                " shorter timeouts than the queue is long; let them send X-Request-Timeout.",
            ),
            Query(f"sum(rate(adaptsvc_spared_images_total{{{SERVICE}}}{RATE}))", "images"),
        ),
    ]


def versions() -> list[Panel]:
    """What serves, and how it came to."""
    return [
        series(
            Words(
                "Version by process",
                "none",
                "All lines are one, but for seconds. A process that stays behind does not see the "
                "pointer or refuses the version: GET /v1/model of that instance.",
            ),
            Query(f"adaptsvc_serving_version{{{SERVICE}}}", "{{instance}} {{pid}}"),
        ),
        series(
            Words(
                "Swaps in an hour",
                "none",
                "By outcome; each process counts its own. Anything but `ok` is explained in "
                "docs/versions.md: runbook, AdaptsvcSwapFailing.",
            ),
            Query(
                f"sum by (outcome) (increase(adaptsvc_swaps_total{{{SERVICE}}}[1h]))", "{{outcome}}"
            ),
        ),
        series(
            Words(
                "Time to swap",
                "s",
                "Mean of an hour, from seeing a version to serving it. Requests are answered "
                "meanwhile; seconds point at a slow disk or too few cores.",
            ),
            Query(
                mean("adaptsvc_swap_seconds", SERVICE, "[1h]"),
                "mean",
            ),
        ),
    ]


def dashboard() -> str:
    """The dashboard as JSON."""
    text = "Requests, inference and versions of the service."
    rows = (
        ("Now", now()),
        ("Requests", requests()),
        ("Inference", inference()),
        ("Versions", versions()),
    )
    return board("adaptsvc-serving", "adaptsvc: serving", text, rows)
