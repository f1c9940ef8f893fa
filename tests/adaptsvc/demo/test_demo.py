"""Claims about the demo's parts; the demo itself takes minutes and is run by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from adaptsvc import config
from adaptsvc.demo import data
from adaptsvc.demo.data import CLASSES, UNKNOWN, Picture, Scene, load_scene
from adaptsvc.demo.measure import Reply, score
from adaptsvc.demo.report import Journal, write
from adaptsvc.demo.run import HELD_OUT, STREAMED, overrides_of, settings_of
from adaptsvc.demo.table import live_table, summary_table
from adaptsvc.processes import settings_environment


@pytest.fixture(scope="module")
def scene() -> Scene:
    return load_scene(0, streamed=STREAMED, held_out=HELD_OUT)


def replies(scene: Scene, version: int, right: float) -> list[Reply]:
    """Answers of which a share is right; unknown pictures score higher."""
    chosen = []
    for index, picture in enumerate(scene.held_out):
        hit = index % 100 < 100 * right
        label = picture.label if hit else (picture.label + 1) % len(CLASSES)
        chosen.append(Reply(version, max(label, 0), 0.5, 0.9 if picture.label == UNKNOWN else 0.2))
    return chosen


def test_a_tenth_of_stream_and_held_out_images_is_of_unknown_kind(scene: Scene) -> None:
    assert len(scene.stream) == STREAMED
    assert sum(picture.label == UNKNOWN for picture in scene.held_out) == HELD_OUT // 10


def test_no_image_of_the_stream_is_held_out(scene: Scene) -> None:
    streamed = {picture.image_id for picture in scene.stream}
    assert streamed.isdisjoint(picture.image_id for picture in scene.held_out)


def test_the_stream_carries_no_labels(scene: Scene) -> None:
    assert {picture.label for picture in scene.stream} == {UNKNOWN}


def test_a_seed_is_repeatable_and_another_differs(scene: Scene) -> None:
    assert load_scene(0, streamed=STREAMED, held_out=HELD_OUT) == scene
    assert load_scene(1, streamed=STREAMED, held_out=HELD_OUT).stream != scene.stream


def test_pictures_are_png_files_of_28_pixels(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(scene.stream[0].data)
    with Image.open(file) as picture:
        assert (picture.format, picture.size) == ("PNG", (28, 28))


def test_every_class_is_held_out(scene: Scene) -> None:
    assert {picture.label for picture in scene.held_out} == {UNKNOWN, *range(len(CLASSES))}


def test_the_bundle_is_small() -> None:
    assert data.BUNDLE.stat().st_size < 3_000_000


def test_scores_are_those_of_a_hand_computed_example() -> None:
    pictures = [Picture(str(i), b"", label) for i, label in enumerate((0, 1, UNKNOWN))]
    answers = [Reply(3, 0, 0.8, 0.1), Reply(3, 2, 0.6, 0.5), Reply(3, 0, 0.7, 0.3)]
    scores = score(pictures, answers)
    assert (scores.version, scores.accuracy, scores.ood_auroc) == (3, 0.5, 0.5)
    assert scores.ece == pytest.approx((0.2 + 0.6) / 2)


def test_the_report_is_a_picture_and_the_summary_is_json(scene: Scene, tmp_path: Path) -> None:
    journal = Journal()
    for version, right in ((0, 0.4), (3, 0.6)):
        journal.scores.append(score(scene.held_out, replies(scene, version, right)))
    journal.learned[3] = 1280
    journal.latencies = [(0.1, 0.02), (0.5, 0.03)]
    journal.swaps, journal.requests, journal.swap_ms = [0.3], 12, 80.0
    summary = journal.summary()
    path = write(journal, tmp_path / "reports", summary)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture).std() > 10
    assert json.loads((tmp_path / "reports" / "summary.json").read_text()) == summary
    assert summary["accuracy_gain_points"] == pytest.approx(20, abs=1.5)
    assert summary["failed_requests"] == 0


def test_the_tables_name_the_serving_version_beside_zero_shot(scene: Scene) -> None:
    journal = Journal()
    for version, right in ((0, 0.4), (2, 0.5)):
        journal.scores.append(score(scene.held_out, replies(scene, version, right)))
    console = Console(width=120, record=True, force_terminal=False)
    console.print(live_table(journal, 2, 640, 1280))
    console.print(summary_table(journal.summary(), "report.png"))
    text = console.export_text()
    assert "640 of 1280 images streamed, version 2 serves" in text
    assert "zero-shot" in text
    assert "report.png" in text


def test_the_demos_own_settings_are_those_of_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = overrides_of(tmp_path, seed=3)
    ours = settings_of(overrides)
    for key, value in settings_environment(overrides).items():
        monkeypatch.setenv(key, value)
    assert config.read() == ours
    assert (ours.serve.keys, ours.learn.seed) == ((), 3)
