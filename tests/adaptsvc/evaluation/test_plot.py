"""Claims about the picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adaptsvc.evaluation.plot import Pool, confusion, draw, reliability
from tests.adaptsvc.evaluation.examples import ANSWERS, CELL, result


def test_the_picture_is_a_png_with_something_on_it(tmp_path: Path) -> None:
    zero_shot = result(dataclasses.replace(CELL, method="zero-shot"))
    draw([zero_shot, result()], ["cat", "dog"], tmp_path / "report.png", "photo")
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture).std() > 10


def test_a_picture_of_known_images_alone_is_drawn(tmp_path: Path) -> None:
    answers = ANSWERS.model_copy(update={"label": (0, 1, 1, 0)})
    draw([result(answers=answers)], ["cat", "dog"], tmp_path / "report.png", "photo")
    assert (tmp_path / "report.png").stat().st_size > 1000


def test_cells_of_a_method_are_pooled() -> None:
    pool = Pool.of([result(), result()])
    assert pool.label.tolist() == [0, 1, 1, -1] * 2
    assert pool.correct.tolist() == [1, 1, 0] * 2


def test_the_confusion_matrix_has_a_row_for_the_unknown() -> None:
    expected = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    assert confusion(Pool.of([result()]), 2).tolist() == expected


def test_reliability_is_confidence_accuracy_and_share_of_each_bin() -> None:
    answers = ANSWERS.model_copy(update={"confidence": (0.90, 0.92, 0.5, 0.1)})
    confidence, accuracy, share = reliability(Pool.of([result(answers=answers)]))
    assert confidence == pytest.approx([0.5, 0.91])
    assert accuracy == pytest.approx([0.0, 1.0])
    assert share == pytest.approx([1 / 3, 2 / 3])
