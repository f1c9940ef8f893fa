"""The drawing of docs/architecture.md: `python -m docs.drawing` writes docs/architecture.svg.

Boxes, and flows between them, at places chosen by hand: no layout program is needed. A test holds the names
against modules, topics and routes, and the file against what this writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

SVG = Path(__file__).with_name("architecture.svg")
WIDTH, HEIGHT = 1250, 730
CHIP_HEIGHT = 40
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"
Flow = Literal["request", "stream", "round", "promotion", "swap", "monitoring"]
COLOURS: dict[Flow, str] = {
    "request": "#1559b0",
    "stream": "#1b7a35",
    "round": "#6a1b9a",
    "promotion": "#c62828",
    "swap": "#b45309",
    "monitoring": "#4a5a66",
}
SAID: dict[Flow, str] = {
    "request": "a request: image in, answer and version out",
    "stream": "the stream: images, labels, dead letters, events",
    "round": "a round: from the window to a candidate",
    "promotion": "a promotion: publish, then compare-and-set",
    "swap": "a swap: follow the pointer, load, test, assign",
    "monitoring": "monitoring: drift, metrics, alerts",
}


@dataclass(frozen=True, slots=True)
class Chip:
    """A thing inside a room.

    Attributes:
        name: as code, topic, file or program calls it.
        note: what it is, in a few words.
        x: left edge.
        y: upper edge.
        width: of it.
        modules: of `adaptsvc`, where it stands for some.
    """

    name: str
    note: str
    x: int
    y: int
    width: int
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Room:
    """A process, or a store.

    Attributes:
        title: its name and what it runs on.
        x: left edge.
        y: upper edge.
        width: of it.
        height: of it.
        chips: what is in it.
        stored: whether it is a store.
    """

    title: str
    x: int
    y: int
    width: int
    height: int
    chips: tuple[Chip, ...]
    stored: bool = False


@dataclass(frozen=True, slots=True)
class Arrow:
    """A flow between two places.

    Attributes:
        flow: which one it is a part of.
        points: corners of the line.
        label: beside it, empty for none.
        at: where the label begins.
    """

    flow: Flow
    points: tuple[tuple[int, int], ...]
    label: str = ""
    at: tuple[int, int] = (0, 0)


def _served(name: str, note: str, column: int, row: int) -> Chip:
    return Chip(name, note, 344 + 114 * column, 76 + 54 * row, 100, (f"serving/{name}",))


def _worked(name: str, note: str, column: int, row: int, *modules: str) -> Chip:
    return Chip(name, note, 434 + 136 * column, 400 + 52 * row, 122, modules or (name,))


def _kept(name: str, note: str, row: int) -> Chip:
    return Chip(name, note, 914, 76 + 46 * row, 292)


ROOMS = (
    Room(
        "clients",
        *(20, 40, 150, 130),
        (
            Chip("/v1/classify", "/v1/embed, /v2", 30, 76, 130),
            Chip("/v1/feedback", "/ui, /v1/versions", 30, 122, 130),
        ),
    ),
    Room(
        "producers",
        *(20, 200, 150, 86),
        (Chip("adaptsvc replay", "or label, or kcat", 30, 236, 130),),
    ),
    Room(
        "service · BentoML, ONNX Runtime · many processes",
        *(330, 40, 470, 210),
        (
            _served("gate", "open requests", 0, 0),
            _served("requests", "bytes and ids", 1, 0),
            _served("waiting", "deadlines", 2, 0),
            _served("engine", "batches", 3, 0),
            _served("health", "/livez, /readyz", 0, 1),
            _served("sampling", "off by default", 1, 1),
            _served("answers", "T, OOD, top k", 2, 1),
            _served("live", "the version", 3, 1),
            _served("feedback", "/v1/feedback", 0, 2),
            _served("drifting", "/v1/drift", 2, 2),
            _served("versioning", "/v1/versions", 3, 2),
        ),
    ),
    Room(
        "shared state · files, or Redis",
        *(900, 40, 320, 270),
        (
            _kept("CURRENT", "the pointer: version, sequence, held", 0),
            _kept("versions/000012", "manifest, delta, head, record; immutable", 1),
            _kept("base/<sha256>", "the ONNX graph they are deltas to", 2),
            _kept("DRIFT", "what the worker says of drift", 3),
            _kept("lease, pins, classes asked for", "who may write; what is kept; what is wanted", 4),
        ),
        stored=True,
    ),
    Room(
        "stream · an SQLite file, or Kafka",
        *(20, 360, 300, 290),
        (
            Chip("images.unlabeled", "encoded images, by image id", 35, 404, 270),
            Chip("images.labeled", "labels, with their images or without", 35, 452, 270),
            Chip("images.deadletter", "what could not be used, and why", 35, 500, 270),
            Chip("model.events", "promoted, refused, drift", 35, 548, 270),
        ),
        stored=True,
    ),
    Room(
        "worker · torch · one at a time writes",
        *(420, 360, 440, 290),
        (
            _worked("source", "bytes to pixels", 0, 0),
            _worked("intake", "zero-shot, labels", 1, 0, "intake", "labeling"),
            _worked("watching", "six signals", 2, 0),
            _worked("deadletters", "with the reason", 0, 1),
            _worked("window", "newest images", 1, 1, "adapt/window"),
            _worked("rounds", "which is due", 2, 1),
            _worked("worker", "the loop", 0, 2),
            _worked("evidence", "guard, calibration", 1, 2, "evidence", "trust/guard"),
            _worked("learner, tuner", "steps; ranks help", 2, 2, "learner", "tuner"),
            _worked("checkpoint", "then commit", 0, 3),
            _worked("publishing", "parity, delta", 1, 3),
        ),
    ),
    Room(
        "monitoring",
        *(930, 410, 290, 240),
        (
            Chip("Prometheus", "scrapes /metrics of both", 944, 446, 262),
            Chip("rules.yml", "alerts, each with a section in the runbook", 944, 494, 262),
            Chip("Grafana", "serving, learning, drift, streams", 944, 542, 262),
            Chip("HPA, KEDA", "replicas by images inside; worker 0 or 1", 944, 590, 262),
        ),
    ),
)  # fmt: skip
ARROWS = (
    Arrow("request", ((160, 96), (344, 96)), "1  image", (190, 90)),
    Arrow("request", ((444, 96), (458, 96))),
    Arrow("request", ((558, 96), (572, 96))),
    Arrow("request", ((672, 96), (686, 96))),
    Arrow("request", ((736, 116), (736, 130))),
    Arrow("request", ((686, 150), (672, 150))),
    Arrow("request", ((622, 130), (622, 123), (330, 123), (160, 123)), "answer", (190, 117)),
    Arrow("stream", ((572, 150), (558, 150))),
    Arrow("stream", ((95, 276), (95, 360)), "2  images, labels", (103, 345)),
    Arrow("stream", ((394, 224), (394, 300), (232, 300), (232, 360)), "labels", (240, 294)),
    Arrow("stream", ((508, 170), (508, 330), (290, 330), (290, 360)), "samples", (412, 324)),
    Arrow("stream", ((320, 420), (434, 420)), "poll", (345, 414)),
    Arrow("stream", ((495, 440), (495, 452))),
    Arrow("stream", ((434, 472), (402, 472), (402, 520), (305, 520))),
    Arrow("stream", ((434, 524), (384, 524), (384, 568), (305, 568)), "events", (326, 562)),
    Arrow("stream", ((434, 576), (402, 576), (402, 620), (320, 620)), "commit", (345, 614)),
    Arrow("stream", ((556, 420), (570, 420))),
    Arrow("round", ((631, 440), (631, 452)), "3", (640, 450)),
    Arrow("round", ((692, 472), (706, 472))),
    Arrow("round", ((767, 492), (767, 504))),
    Arrow("round", ((706, 524), (692, 524))),
    Arrow("round", ((631, 544), (631, 556))),
    Arrow(
        "promotion",
        ((692, 576), (890, 576), (890, 380), (1060, 380), (1060, 310)),
        "4  publish, then promote",
        (898, 374),
    ),
    Arrow("swap", ((914, 96), (850, 96), (850, 144), (786, 144)), "5  polled, told", (806, 90)),
    Arrow("swap", ((914, 142), (866, 142), (866, 157), (786, 157)), "loaded", (808, 171)),
    Arrow("monitoring", ((692, 420), (706, 420))),
    Arrow("monitoring", ((828, 420), (874, 420), (874, 340), (960, 340), (960, 310))),
    Arrow("monitoring", ((914, 234), (870, 234), (870, 275), (622, 275), (622, 224))),
    Arrow("monitoring", ((860, 620), (930, 620), (930, 466), (944, 466))),
    Arrow(
        "monitoring",
        ((700, 40), (700, 20), (1234, 20), (1234, 466), (1206, 466)),
        "6  /metrics",
        (708, 14),
    ),
)


def svg() -> str:
    """All of it."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" font-family="{FONT}">'
    )
    yield f"<title>adaptsvc: {'; '.join(SAID.values())}</title>"
    yield "<defs>"
    for flow, colour in COLOURS.items():
        yield (
            f'<marker id="{flow}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
        )
    yield "</defs>"
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>'
    for room in ROOMS:
        yield from _room(room)
    for arrow in ARROWS:
        yield from _arrow(arrow)
    yield from _legend()
    yield "</svg>"


def _room(room: Room) -> Iterator[str]:
    fill, edge = ("#fdf6e3", "#b08d3c") if room.stored else ("#eef3f8", "#7d93a8")
    yield (
        f'<rect x="{room.x}" y="{room.y}" width="{room.width}" height="{room.height}" rx="8" '
        f'fill="{fill}" stroke="{edge}"/>'
    )
    yield _text(room.title, room.x + 12, room.y + 22, size=13, weight=600)
    for chip in room.chips:
        yield (
            f'<rect x="{chip.x}" y="{chip.y}" width="{chip.width}" height="{CHIP_HEIGHT}" rx="5" '
            f'fill="#ffffff" stroke="{edge}"/>'
        )
        middle = chip.x + chip.width // 2
        yield _text(chip.name, middle, chip.y + 17, size=12.5, weight=600, anchor="middle")
        yield _text(chip.note, middle, chip.y + 32, size=10.5, anchor="middle", fill="#45525e")


def _arrow(arrow: Arrow) -> Iterator[str]:
    colour = COLOURS[arrow.flow]
    path = "M" + "L".join(f"{x} {y}" for x, y in arrow.points)
    yield (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2" '
        f'marker-end="url(#{arrow.flow})"/>'
    )
    if arrow.label:
        yield _text(arrow.label, *arrow.at, size=11.5, weight=600, fill=colour)


def _legend() -> Iterator[str]:
    for number, (flow, said) in enumerate(SAID.items()):
        x, y = 24 + 410 * (number % 3), 682 + 24 * (number // 3)
        colour = COLOURS[flow]
        yield f'<path d="M{x} {y - 4}L{x + 26} {y - 4}" stroke="{colour}" stroke-width="3"/>'
        yield _text(f"{number + 1}  {said}", x + 34, y, size=12.5, fill=colour, weight=600)


def _text(text: str, x: int, y: int, *, size: float, weight: int = 400, **look: str) -> str:
    anchor, fill = look.get("anchor", "start"), look.get("fill", "#16202a")
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{fill}">{escape(text)}</text>'
    )


def main() -> None:
    """Write it."""
    SVG.write_text(svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
