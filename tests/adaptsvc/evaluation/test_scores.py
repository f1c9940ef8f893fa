"""Claims about the choice of an out-of-distribution score."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from adaptsvc.evaluation.journal import Answers, Cell, Result
from adaptsvc.evaluation.scores import auroc_by_score, best_score, scores_table
from adaptsvc.trust import ood
from tests.adaptsvc.evaluation.examples import ANSWERS, result


def answered(logits: list[list[float]], label: list[int], method: str = "ueo") -> Result:
    answers = ANSWERS.model_copy(
        update={"logits": tuple(map(tuple, logits)), "label": tuple(label)}
    )
    return result(Cell("photo", "open", method, 0, ""), answers=Answers(**answers.model_dump()))


def random_cell(seed: int, method: str = "ueo") -> Result:
    chance = np.random.default_rng(seed)
    label = [0, 1, 2] * 10 + [-1] * 20
    logits = 5 * chance.standard_normal((50, 3)) + 3 * np.eye(4)[label][:, :3]
    return answered(logits.tolist(), label, method)


def test_each_score_has_its_mean_auroc_over_the_cells_of_a_method() -> None:
    cells = [random_cell(0), random_cell(1)]
    found = auroc_by_score([*cells, random_cell(2, "core")], 10.0)
    assert list(found) == ["ueo", "core"]
    for name, score in ood.SCORES.items():
        expected = []
        for cell in cells:
            scores = score(np.array(cell.answers.logits), 10.0)
            expected.append(ood.auroc(scores[:30], scores[30:]))
        assert found["ueo"][name] == pytest.approx(np.mean(expected))
    assert len(set(found["ueo"].values())) > 1


def test_a_cell_without_unknown_images_is_left_out() -> None:
    assert auroc_by_score([answered([[1.0, 0.0], [0.0, 1.0]], [0, 1])], 10.0) == {}


def test_a_shift_of_all_logits_is_seen_by_energy_and_not_by_probabilities() -> None:
    logits = [[2.0, 1.0], [1.0, 2.0], [4.0, 3.0], [3.0, 4.0]]
    found = auroc_by_score([answered(logits, [-1, -1, 0, 1])], 10.0)
    assert found["ueo"]["energy"] == 1.0
    assert found["ueo"]["msp"] == 0.5
    assert best_score(found) == "energy"


def test_among_equal_scores_the_first_is_best_and_none_is_refused() -> None:
    assert best_score({"ueo": {"msp": 0.5, "energy": 0.5}}) == "msp"
    with pytest.raises(ValueError, match="no method"):
        best_score({})


def test_the_best_score_of_a_method_is_bold_and_the_table_fits_80_columns() -> None:
    scores = {name: 0.5 for name in ood.SCORES}
    table = scores_table({"information-maximisation": {**scores, "energy": 0.7}})
    assert list(table.columns[3].cells) == ["[bold]70.0[/bold]"]
    assert list(table.columns[1].cells) == ["50.0"]
    console = Console(width=80, record=True, force_terminal=False)
    console.print(table)
    assert "…" not in console.export_text()
