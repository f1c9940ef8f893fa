"""What every dashboard is made of: panels, variables, annotations. It knows nothing of what is shown.

Expressions are written with `SERVICE` and `WORKER` for the label matchers of a process, and `RATE` for a
window that fits the scrape interval and the zoom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)

CHOSEN = 'namespace=~"$namespace",instance=~"$instance"'
SERVICE = f'job="adaptsvc-service",{CHOSEN}'
WORKER = f'job="adaptsvc-worker",{CHOSEN}'
RATE = "[$__rate_interval]"
RECORDED = 'namespace=~"$namespace"'  # of a recording rule, which adds up the instances
# Requests for answers, as the error budget counts them.
ANSWERS = 'endpoint=~"/v1/(classify|embed|feedback)|/v2/models/.+/infer"'
SOURCE = DataSourceRef(type_val="prometheus", uid="$datasource")
TAG = "adaptsvc"
# Differences, because Grafana shows no annotation whose value is 0, and a version may be 0.
NEW, OLD = (f"adaptsvc:serving_version:max{{{RECORDED}}}{when}" for when in ("", " offset 1m"))
PROMOTED, ROLLED_BACK = f"{NEW} - ({OLD}) > 0", f"({OLD}) - {NEW} > 0"
Panel: TypeAlias = stat.Panel | timeseries.Panel


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and what its series are called; ``{{label}}`` stands for a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Words:
    """What a panel says of itself.

    Attributes:
        title: what is shown.
        unit: of Grafana's units.
        advice: what it is, and what to do when it looks bad.
    """

    title: str
    unit: str
    advice: str


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a value is bad, and no longer good (`warn`); under them when `falling`."""

    bad: float
    warn: float | None = None
    falling: bool = False

    def builder(self) -> dashboard.ThresholdsConfig:
        """As Grafana takes them, which counts upwards."""
        worse = [(self.bad, "red"), *([] if self.warn is None else [(self.warn, "orange")])]
        if self.falling:  # each color reaches up to where the next begins
            values, colors = [value for value, _ in worse], [*[c for _, c in worse[1:]], "green"]
            steps = [Threshold(None, "red"), *map(Threshold, values, colors)]
        else:
            steps = [Threshold(None, "green"), *[Threshold(*each) for each in reversed(worse)]]
        return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def quantile(share: str, buckets: str, by: str = "le") -> str:
    """A quantile of a histogram over all instances."""
    return f"histogram_quantile({share}, sum by ({by}) (rate({buckets}{RATE})))"


def mean(histogram: str, matchers: str, window: str = RATE) -> str:
    """The mean of a histogram over all instances."""
    total, times = (
        f"sum(rate({histogram}_{each}{{{matchers}}}{window}))" for each in ("sum", "count")
    )
    return f"{total} / {times}"


def number(words: Words, query: Query, limits: Limits | None = None) -> stat.Panel:
    """The newest value, large, colored by its limits."""
    panel = (
        stat.Panel()
        .title(words.title)
        .description(words.advice)
        .unit(words.unit)
        .datasource(SOURCE)
        .color_mode(BigValueColorMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(query).ref_id("A").instant())
        .height(4)
        .span(4)
    )
    return panel if limits is None else panel.thresholds(limits.builder())


def series(words: Words, *queries: Query, limits: Limits | None = None) -> timeseries.Panel:
    """Values over time; limits are dashed lines."""
    panel = (
        timeseries.Panel()
        .title(words.title)
        .description(words.advice)
        .unit(words.unit)
        .datasource(SOURCE)
        .legend(_legend())
        .fill_opacity(10)
        .height(8)
        .span(8)
    )
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        panel.with_target(_target(query).ref_id(letter).range())
    if limits is not None:
        style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        panel.thresholds(limits.builder()).thresholds_style(style)
    return panel


def board(uid: str, title: str, text: str, rows: Sequence[tuple[str, Sequence[Panel]]]) -> str:
    """A dashboard as JSON: rows of panels, the variables, and what happened to the versions."""
    built, ids = _frame(uid, title, text), count(1)
    for name, panels in rows:
        built.with_row(dashboard.Row(name).id(next(ids)))
        for panel in panels:
            built.with_panel(panel.id(next(ids)))
    return _as_json(built)


def _target(query: Query) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(query.expr).legend_format(query.legend).datasource(SOURCE)


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST)
    return legend.placement(LegendPlacement.BOTTOM).show_legend(True)


def _frame(uid: str, title: str, text: str) -> dashboard.Dashboard:
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags([TAG])
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(_others())
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(_choice("namespace", "adaptsvc_state_up"))
        .with_variable(_choice("instance", 'adaptsvc_state_up{namespace=~"$namespace"}'))
    )
    for name, expr, color in (("Promotions", PROMOTED, "green"), ("Rollbacks", ROLLED_BACK, "red")):
        note = dashboard.AnnotationQuery().name(name).datasource(SOURCE).expr(expr)
        built.annotation(note.icon_color(color).enable(True))
    return built


def _choice(label: str, metric: str) -> dashboard.QueryVariable:
    """Values of a label; all of them also matches series without it."""
    return (
        dashboard.QueryVariable(label)
        .query(f"label_values({metric}, {label})")
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )


def _others() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("adaptsvc").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(True).keep_time(True).include_vars(True)


def _as_json(built: dashboard.Dashboard) -> str:
    return JSONEncoder(indent=2, sort_keys=True).encode(built.build()) + "\n"
