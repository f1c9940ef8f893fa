"""Claims about the drawing of docs/architecture.md: names that exist, and nothing over anything else."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docs.drawing import ARROWS, CHIP_HEIGHT, HEIGHT, ROOMS, SVG, WIDTH, Chip, Room, svg
from streams.topics import load_topics

ROOT = Path(__file__).parents[1]
CHIPS = [chip for room in ROOMS for chip in room.chips]


def room_of(beginning: str) -> Room:
    return next(room for room in ROOMS if room.title.startswith(beginning))


def overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    """Of two rectangles: left, upper, right and lower edge."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def of_chip(chip: Chip) -> tuple[int, int, int, int]:
    return chip.x, chip.y, chip.x + chip.width, chip.y + CHIP_HEIGHT


def of_room(room: Room) -> tuple[int, int, int, int]:
    return room.x, room.y, room.x + room.width, room.y + room.height


def test_the_file_is_what_the_description_draws() -> None:
    assert SVG.read_text(encoding="utf-8") == svg()


def test_it_is_an_svg_with_a_ground_of_its_own_so_that_dark_pages_can_show_it() -> None:
    root = ElementTree.fromstring(svg())
    ground = next(each for each in root if each.tag.endswith("rect"))
    assert (ground.get("width"), ground.get("height")) == (str(WIDTH), str(HEIGHT))
    assert ground.get("fill") == "#ffffff"


@pytest.mark.parametrize("module", sorted({name for chip in CHIPS for name in chip.modules}))
def test_a_chip_of_code_is_a_module(module: str) -> None:
    assert (ROOT / "adaptsvc" / f"{module}.py").is_file()


@pytest.mark.parametrize("beginning", ["service", "worker"])
def test_all_that_is_in_a_process_is_code(beginning: str) -> None:
    assert all(chip.modules for chip in room_of(beginning).chips)


def test_the_stream_holds_the_topics() -> None:
    assert {chip.name for chip in room_of("stream").chips} == set(load_topics().specs)


@pytest.mark.parametrize("route", ["/v1/classify", "/v1/embed", "/v1/feedback", "/v1/drift"])
def test_routes_are_in_the_drawing_and_in_the_readme(route: str) -> None:
    assert route in svg()
    assert route in (ROOT / "README.md").read_text(encoding="utf-8")


def test_nothing_lies_over_anything_else() -> None:
    for one, other in combinations(CHIPS, 2):
        assert not overlap(of_chip(one), of_chip(other)), (one.name, other.name)
    for room, beside in combinations(ROOMS, 2):
        assert not overlap(of_room(room), of_room(beside)), (room.title, beside.title)


def test_chips_are_inside_their_rooms() -> None:
    for room in ROOMS:
        left, upper, right, lower = of_room(room)
        for chip in room.chips:
            box = of_chip(chip)
            assert left < box[0] < box[2] < right, chip.name
            assert upper < box[1] < box[3] < lower, chip.name


def test_lines_run_level_or_upright_and_cross_no_chip() -> None:
    for arrow in ARROWS:
        for (x, y), (to_x, to_y) in zip(arrow.points, arrow.points[1:], strict=False):
            assert x == to_x or y == to_y, arrow
            line = (min(x, to_x), min(y, to_y), max(x, to_x), max(y, to_y))
            for chip in CHIPS:
                left, upper, right, lower = of_chip(chip)
                inside = (left + 1, upper + 1, right - 1, lower - 1)
                assert not overlap((line[0], line[1], line[2] + 1, line[3] + 1), inside), (
                    arrow,
                    chip,
                )
