"""Numbers in Grafana's units, and what color a value has. It knows neither panels nor drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence

BOOLS = {"bool_yes_no": ("No", "Yes"), "bool_on_off": ("Off", "On")}
PER_SECOND = {"reqps": "req/s", "cps": "c/s"}
SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
THOUSANDS = ("", " K", " Mil", " Bil")
TIMES = ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d"))
UNITS = ("none", "short", "percentunit", "percent", "s", "ms", "bytes", *PER_SECOND, *BOOLS)


def formatted(value: float, unit: str) -> str:
    """A number with its unit, in three digits.

    Example:
        >>> [formatted(0.0625, unit) for unit in ("none", "percentunit", "s", "reqps", "bool_on_off")]
        ['0.0625', '6.25%', '62.5 ms', '0.0625 req/s', 'On']
        >>> formatted(1536, "bytes"), formatted(90, "s"), formatted(1500, "short")
        ('1.5 KiB', '1.5 min', '1.5 K')
    """
    if unit not in UNITS:
        raise ValueError(f"unit {unit!r}; known are {', '.join(UNITS)}")
    if unit in BOOLS:
        return BOOLS[unit][int(value != 0)]
    if unit in PER_SECOND:
        return f"{_plain(value)} {PER_SECOND[unit]}"
    if unit in ("percent", "percentunit"):
        return f"{_plain(value if unit == 'percent' else 100 * value)}%"
    if unit in ("s", "ms"):
        return _time(value if unit == "s" else value / 1000)
    if unit == "bytes":
        return _scaled(value, 1024, [f" {each}" for each in SIZES])
    return _scaled(value, 1000, THOUSANDS) if unit == "short" else _plain(value)


def _plain(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _scaled(value: float, base: int, names: Sequence[str]) -> str:
    power = 0
    while abs(value) >= base and power < len(names) - 1:
        value, power = value / base, power + 1
    return _plain(value) + names[power]


def _time(seconds: float) -> str:
    scale, name = (1.0, "s") if seconds == 0 else TIMES[0]
    for each in TIMES:
        if 0 < each[0] <= abs(seconds):
            scale, name = each
    return f"{_plain(seconds / scale)} {name}"


def limits(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and highest value of an axis: 0 belongs to it unless the values are far from it.

    Example:
        >>> limits([2.0, 10.0]), limits([0.0, 0.0]), limits([90.0, 100.0])
        ((0.0, 10.5), (0.0, 1.0), (89.5, 100.5))
    """
    low, high = min(values), max(values)
    if low == high:
        low, high = min(low, 0.0), max(high, 0.0)
    elif 0 < low < high / 2:
        low = 0.0
    if low == high:
        return 0.0, 1.0
    room = 0.05 * (high - low)
    return low - room * (low != 0), high + room * (high != 0)


def ticks(start: int, end: int, most: int) -> list[int]:
    """Times at whole minutes, or tens of seconds, about `most` and none whose label would stick out.

    Example:
        >>> ticks(30, 630, 6), ticks(0, 600, 6)
        ([120, 240, 360, 480, 600], [120, 240, 360, 480])
    """
    steps = [10, 30, 60, 120, 300, 600, 1800, 3600, 10800, 21600, 86400]
    step = next((each for each in steps if (end - start) / each <= most), 7 * 86400)
    first, last = start + 0.06 * (end - start), end - 0.04 * (end - start)
    return list(range(math.ceil(first / step) * step, int(last) + 1, step))
