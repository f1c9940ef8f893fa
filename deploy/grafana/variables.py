"""What the variables of a dashboard stand for when nobody has chosen. It knows nothing of panels."""

from __future__ import annotations

CHOICES = {"$namespace": ".*", "$instance": ".*"}  # of `all_value`: also what has no such label
RATE_INTERVAL = "$__rate_interval"
SCRAPES = 4  # that a rate sees at least, as Grafana has it


def filled(expr: str, rate_window_s: int) -> str:
    """An expression as Prometheus is asked it.

    Example:
        >>> filled('rate(x{namespace=~"$namespace"}[$__rate_interval])', 20)
        'rate(x{namespace=~".*"}[20s])'
    """
    for name, value in CHOICES.items():
        expr = expr.replace(name, value)
    return expr.replace(RATE_INTERVAL, f"{rate_window_s}s")


def rate_window_s(step_s: int, scrape_s: int) -> int:
    """How long ``$__rate_interval`` is.

    Example:
        >>> rate_window_s(5, 5), rate_window_s(60, 5)
        (20, 65)
    """
    return max(step_s + scrape_s, SCRAPES * scrape_s)
