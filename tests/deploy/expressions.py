"""Every expression that we deploy, and the parts of it that find something. Knows nothing of who asks.

An alert is silent while all is well, and so is one whose metric is misspelt. So an expression is taken apart:
comparisons become sums, which are there when both sides are; `absent(x)` becomes x; what lies in the past is
taken from now. What is left finds something in a healthy system, and each selector and each side of an `or`
does so by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

from deploy.grafana.variables import filled

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
BOARDS = sorted((ROOT / "k8s" / "grafana").glob("*.json"))
RATE_WINDOW_S = 30
COMPARISON = re.compile(r"\s(?:==|!=|>=|<=|>|<)\s")


def rules() -> list[dict[str, Any]]:
    """Every rule as it is written."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert by its name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def board(file: Path) -> dict[str, Any]:
    """A dashboard."""
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def panels(file: Path) -> list[dict[str, Any]]:
    """The panels of a dashboard, without its rows."""
    return [panel for panel in board(file)["panels"] if panel["type"] != "row"]


def expressions() -> dict[str, str]:
    """Where each expression is, and what it says, its variables filled in."""
    found = {}
    for number, rule in enumerate(rules()):
        found[f"rule {number}, {rule.get('alert', rule.get('record'))}"] = rule["expr"]
    for file in BOARDS:
        for panel in panels(file):
            for target in panel["targets"]:
                found[f"{file.stem}: {panel['title']} {target['refId']}"] = target["expr"]
        for note in board(file)["annotations"]["list"]:
            found[f"{file.stem}: annotation {note['name']}"] = note["expr"]
        for variable in board(file)["templating"]["list"]:
            if variable["type"] == "query":
                metric = variable["query"].removeprefix("label_values(").rpartition(",")[0]
                found[f"{file.stem}: variable {variable['name']}"] = metric
    return {where: filled(expr, RATE_WINDOW_S) for where, expr in found.items()}


def healthy(expr: str) -> str:
    """What finds something while all is well, if and only if names, labels and matching are right.

    Example:
        >>> healthy("up == 0 or absent(up)")
        'up + 0 or (up)'
    """
    now = re.sub(r"\soffset\s\w+", "", expr)
    return COMPARISON.sub(" + ", now).replace("absent(", "(")


def parts(expr: str) -> set[str]:
    """An expression, each side of every `or` in it, and each of its selectors.

    Example:
        >>> sorted(parts("sum(up) or foo"))
        ['foo{}', 'sum(up) or foo', 'sum(up{})', 'up{}']
    """
    found = {expr}
    for node in _nodes(promql.parse(expr)):
        if isinstance(node, promql.VectorSelector):
            found.add(str(node))
        elif isinstance(node, promql.BinaryExpr) and str(node.op) == "or":
            found |= {str(node.lhs), str(node.rhs)}
    return found


def selectors(expr: str) -> list[promql.VectorSelector]:
    """Every selector of an expression."""
    nodes = _nodes(promql.parse(expr))
    return [node for node in nodes if isinstance(node, promql.VectorSelector)]


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for name in ("lhs", "rhs", "expr", "param", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield from _nodes(child)
    for child in getattr(node, "args", None) or ():
        yield from _nodes(child)
