"""Claims about one cell: what it learns from, what it is tested on, what counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from adaptsvc.errors import AdaptsvcError
from adaptsvc.evaluation.bench import Bench, Pictures, embed, read_pictures
from adaptsvc.evaluation.cells import Lesson, Scene, run_cell, stage
from adaptsvc.evaluation.journal import Cell, Result
from adaptsvc.evaluation.measure import UNKNOWN
from adaptsvc.evaluation.methods import LABELED_METHODS, METHODS
from adaptsvc.evaluation.split import SETTINGS, Setting
from adaptsvc.learner import Candidate
from tests.adaptsvc.evaluation.conftest import KNOWN, OTHERS, MakeTree

MakeBench = Callable[..., Bench]


def nothing() -> None:
    """Between two steps."""


LESSON = Lesson(KNOWN)


@pytest.fixture
def pictures(make_tree: MakeTree, bench: Bench) -> Pictures:
    """Four of each class."""
    return read(make_tree, bench)


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    """With the settings of the tests."""
    return make_bench()


def read(make_tree: MakeTree, bench: Bench) -> Pictures:
    return read_pictures(bench, make_tree(("photo",)).domains["photo"], between_images=nothing)


def cell(setting: Setting = "open", method: str = "ueo", seed: int = 0) -> Cell:
    return Cell("photo", setting, method, seed, "digest")


def run(bench: Bench, pictures: Pictures, cell: Cell, *, guard: bool = False) -> Result:
    return run_cell(bench, stage(pictures, LESSON, cell), cell, guard=guard, between_steps=nothing)


def names(scene: Scene, index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> set[str]:
    return {scene.pictures.names[i] for i in index}


def test_the_test_half_is_the_same_in_every_setting(pictures: Pictures) -> None:
    scenes = [stage(pictures, LESSON, cell(setting)) for setting in SETTINGS]
    assert len({tuple(scene.test.tolist()) for scene in scenes}) == 1
    assert names(scenes[0], scenes[0].test) == {*KNOWN, *OTHERS}


@pytest.mark.parametrize(
    ("setting", "present"),
    [
        ("closed", {*KNOWN}),
        ("partial", {*KNOWN[:2]}),
        ("open", {*KNOWN, *OTHERS}),
        ("open-partial", {*KNOWN[:2], *OTHERS}),
    ],
)
def test_what_is_learned_from_are_the_classes_of_the_setting(
    pictures: Pictures, setting: Setting, present: set[str]
) -> None:
    scene = stage(pictures, LESSON, cell(setting))
    assert names(scene, scene.adapt) == present
    assert set(scene.adapt).isdisjoint(scene.test)


def test_labels_follow_the_order_of_the_known_classes(pictures: Pictures) -> None:
    scene = stage(pictures, LESSON, cell())
    expected = {"cat": 0, "dog": 1, "car": 2, "bird": UNKNOWN, "fish": UNKNOWN}
    assert [expected[name] for name in pictures.names] == scene.labels.tolist()


def test_too_few_images_to_adapt_to_are_refused(make_tree: MakeTree, bench: Bench) -> None:
    tree = make_tree(("photo",), {"cat": 2, "dog": 1, "car": 1, "bird": 4})
    pictures = read_pictures(bench, tree.domains["photo"], between_images=nothing)
    with pytest.raises(AdaptsvcError, match="photo, closed: 1 images to adapt to"):
        stage(pictures, LESSON, cell("closed"))


def test_zero_shot_answers_the_same_in_every_setting(bench: Bench, pictures: Pictures) -> None:
    results = [run(bench, pictures, cell(setting, "zero-shot")) for setting in SETTINGS]
    assert all(r.figures == results[0].figures for r in results)
    assert results[0].figures["temperature"] == 1.0
    assert (results[0].reasons, results[0].losses) == ((), {})


def test_learning_at_rate_0_answers_as_zero_shot_does(
    make_bench: MakeBench, make_tree: MakeTree
) -> None:
    bench = make_bench(learn={"learning_rate": 0, "context_learning_rate": 0})
    pictures = read(make_tree, bench)
    learned, zero_shot = (run(bench, pictures, cell(method=m)) for m in ("ueo", "zero-shot"))
    assert learned.answers.prediction == zero_shot.answers.prediction
    assert learned.answers.confidence == pytest.approx(zero_shot.answers.confidence, abs=1e-4)


def test_a_cell_does_not_depend_on_the_one_before(bench: Bench, pictures: Pictures) -> None:
    first = run(bench, pictures, cell())
    run(bench, pictures, cell("closed", "entropy-minimisation", seed=1))
    again = run(bench, pictures, cell())
    assert again.answers == first.answers
    assert run(bench, pictures, cell(seed=1)).answers != first.answers


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_figures(bench: Bench, pictures: Pictures, method: str) -> None:
    result = run(bench, pictures, cell(method=method))
    assert {"accuracy", "auroc", "auroc_score", "h", "ece", "nll"} <= set(result.figures)
    assert len(result.answers.label) == 10
    assert result.adapt_images == (6 if method in LABELED_METHODS else 10)


def test_where_all_is_known_the_oracle_is_information_maximisation(
    bench: Bench, pictures: Pictures
) -> None:
    oracle, plain = (
        run(bench, pictures, cell("closed", method))
        for method in ("ueo-oracle", "information-maximisation")
    )
    assert oracle.answers == plain.answers
    assert run(bench, pictures, cell("open", "ueo-oracle")).losses != oracle.losses


def test_a_refused_candidate_counts_as_itself_without_the_guard_and_as_zero_shot_with_it(
    make_bench: MakeBench, make_tree: MakeTree
) -> None:
    bench = make_bench(learn={"learning_rate": 1.0, "passes": 4})
    pictures = read(make_tree, bench)
    collapse = cell(method="entropy-minimisation")
    raw, guarded = (run(bench, pictures, collapse, guard=guard) for guard in (False, True))
    zero_shot = run(bench, pictures, cell(method="zero-shot"))
    assert raw.reasons == guarded.reasons != ()
    assert (raw.refused, guarded.refused) == (False, True)
    assert guarded.figures == zero_shot.figures
    assert raw.figures != zero_shot.figures


def test_a_window_that_tells_too_little_is_refused_to_methods_without_labels_as_in_a_round(
    make_bench: MakeBench, make_tree: MakeTree
) -> None:
    bench = make_bench(guard={"window_information": 1.0})
    pictures = read(make_tree, bench)
    methods = ("ueo", "zero-shot", "cross-entropy")
    ueo, zero_shot, labeled = (run(bench, pictures, cell(method=m), guard=True) for m in methods)
    assert ueo.reasons[0] == "window_uninformative"
    assert (ueo.refused, ueo.figures) == (True, zero_shot.figures)
    assert "window_uninformative" not in zero_shot.reasons + labeled.reasons


def test_a_step_that_is_not_finite_counts_as_zero_shot(
    make_bench: MakeBench, make_tree: MakeTree
) -> None:
    bench = make_bench(learn={"learning_rate": 1e38})
    pictures = read(make_tree, bench)
    result = run(bench, pictures, cell())
    assert (result.reasons, result.refused) == (("not_finite",), True)
    assert result.figures == run(bench, pictures, cell(method="zero-shot")).figures


def test_a_tower_tuned_beyond_its_norms_answers_as_torch_does(
    bench: Bench, pictures: Pictures
) -> None:
    tower = bench.learner.tower
    trained = tower.select("all")
    tower.train(trained)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained.values():
            parameter.mul_(1 + 0.1 * torch.rand(parameter.shape, generator=generator))
    head = bench.start.head
    candidate = Candidate(
        method="cross-entropy",
        delta=tower.norm_values(),
        tower=tower.changed(),
        context=head.context,
        class_embeddings=head.class_embeddings,
        losses={},
        images=1,
    )
    found = embed(bench.encoder(candidate), pictures.pixels, np.arange(8))
    expected = tower.embed(torch.from_numpy(pictures.pixels[:8])).numpy()
    assert found == pytest.approx(expected, abs=1e-4)
    assert np.abs(found - pictures.embeddings[:8]).max() > 1e-2


def test_methods_with_labels_get_their_share_of_each_known_class(pictures: Pictures) -> None:
    scene = stage(pictures, Lesson(KNOWN, labels=0.5), cell("closed", "core"))
    found = [pictures.names[index] for index in scene.adapt]
    assert sorted(found) == sorted(KNOWN)  # 2 of each to learn from, half of them labeled


def test_left_out_images_are_tested_on_and_the_others_learned_from(pictures: Pictures) -> None:
    lesson = Lesson(KNOWN, others=pictures)
    scene = stage(pictures, lesson, cell("closed"))
    own = stage(pictures, LESSON, cell("closed"))
    count = len(pictures.names)
    assert scene.test.tolist() == own.test.tolist()
    assert scene.adapt.min() >= count
    assert [scene.pictures.names[i] for i in scene.adapt] == [
        name for name in pictures.names if name in KNOWN
    ]
