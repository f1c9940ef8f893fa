"""What every labeled objective must do. One that is added to `LABELED` is checked by being there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adaptsvc.adapt.labeled import LabeledBatch, LabeledObjective
from adaptsvc.adapt.labeled_objectives import LABELED, labeled_objective
from adaptsvc.errors import ObjectiveError

IMAGES, CLASSES, WIDTH, SCALE = 8, 4, 6, 10.0
TARGETS = torch.tensor([0, 1, 2, 3, 0, 1, 2, 0])
DTYPES = [torch.float32, torch.bfloat16]
DRAWS_PER_SAMPLE = {"core"}  # the order of samples decides which draw each gets
STOPS_A_GRADIENT = {"tes"}  # its soft target is held fixed; test_tes.py compares with a twin
every_objective = pytest.mark.parametrize("name", LABELED)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(rows: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """(rows, WIDTH), unit norm."""
    drawn = torch.randn(rows, WIDTH, generator=seeded(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=-1).to(dtype)


def build(
    name: str, classes: Tensor | None = None, scale: float = SCALE, seed: int = 0
) -> LabeledObjective:
    embeddings = unit(CLASSES, 1) if classes is None else classes
    return LABELED[name](embeddings, scale, generator=seeded(seed))


def batch(features: Tensor | None = None, targets: Tensor = TARGETS, seed: int = 0) -> LabeledBatch:
    rows = unit(IMAGES, 2).requires_grad_() if features is None else features
    teacher = unit(len(rows), 3, rows.dtype)
    projection = torch.randn(9, WIDTH, generator=seeded(4), dtype=torch.float64).to(rows.dtype)
    return LabeledBatch(rows, targets, seeded(seed), teacher, projection.requires_grad_())


def assert_finite(objective: LabeledObjective, given: LabeledBatch) -> None:
    """Value, parts and every gradient that arrives."""
    loss = objective(given)
    loss.total.backward()
    gradients = [parameter.grad for parameter in objective.parameters()]
    assert all(value.isfinite() for value in (loss.total, *loss.parts.values()))
    assert given.features.grad is not None
    for gradient in (given.features.grad, *gradients):
        assert gradient is None or gradient.isfinite().all()


@every_objective
@pytest.mark.parametrize("scale", [SCALE, 1e4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_total_parts_and_gradients_are_finite(name: str, scale: float, dtype: torch.dtype) -> None:
    objective = build(name, unit(CLASSES, 1, dtype), scale)
    assert_finite(objective, batch(unit(IMAGES, 2, dtype).requires_grad_()))


@every_objective
@pytest.mark.parametrize("off", [0, 1], ids=["all right", "all wrong"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_hot_features_give_finite_gradients(name: str, off: int, dtype: torch.dtype) -> None:
    corners = torch.eye(WIDTH, dtype=dtype)
    objective = build(name, corners[:CLASSES], scale=1e4)
    features = corners[(TARGETS + off) % CLASSES].requires_grad_()
    assert_finite(objective, batch(features))


@every_objective
@pytest.mark.parametrize(
    "targets", [[2], [1, 1, 1], [0, 1]], ids=["one image", "one class", "no two of a class"]
)
def test_small_and_uniform_batches_work(name: str, targets: list[int]) -> None:
    features = unit(len(targets), 2).requires_grad_()
    assert_finite(build(name), batch(features, torch.tensor(targets)))


@every_objective
def test_total_is_a_scalar_and_parts_are_named_and_detached(name: str) -> None:
    loss = build(name)(batch())
    assert loss.total.shape == ()
    assert loss.total.requires_grad
    assert loss.parts
    assert all(not part.requires_grad and part.shape == () for part in loss.parts.values())


@pytest.mark.parametrize("name", sorted(set(LABELED) - STOPS_A_GRADIENT))
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    objective, features = build(name), unit(IMAGES, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: objective(batch(f)).total, (features,))


@every_objective
def test_gradient_of_the_head_is_that_of_finite_differences(name: str) -> None:
    objective = build(name)
    assert torch.autograd.gradcheck(lambda _: objective(batch()).total, (objective.head,))


@every_objective
def test_same_seed_gives_the_same_bits(name: str) -> None:
    first, second = (build(name, seed=5)(batch(seed=3)) for _ in range(2))
    assert first.total.item() == second.total.item()
    assert first.parts == second.parts


@every_objective
def test_the_global_generator_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    build(name)(batch()).total.backward()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", sorted(set(LABELED) - DRAWS_PER_SAMPLE))
def test_order_of_samples_does_not_matter(name: str) -> None:
    objective, given = build(name), batch()
    assert given.teacher_features is not None
    order = torch.tensor([5, 2, 7, 0, 4, 1, 3, 6])
    shuffled = replace(
        given,
        features=given.features[order],
        targets=given.targets[order],
        teacher_features=given.teacher_features[order],
    )
    torch.testing.assert_close(objective(shuffled).total, objective(given).total)


@every_objective
def test_order_of_classes_does_not_matter(name: str) -> None:
    order = torch.tensor([2, 0, 3, 1])
    renamed = build(name, unit(CLASSES, 1)[order])(batch(targets=order.argsort()[TARGETS]))
    torch.testing.assert_close(renamed.total, build(name)(batch()).total)


@every_objective
def test_input_is_not_changed(name: str) -> None:
    embeddings, given = unit(CLASSES, 1), batch()
    tensors = (embeddings, given.features, given.targets, given.teacher_features, given.projection)
    before = [tensor.detach().clone() for tensor in tensors if tensor is not None]
    build(name, embeddings)(given).total.backward()
    after = [tensor.detach() for tensor in tensors if tensor is not None]
    assert all(torch.equal(new, old) for new, old in zip(after, before, strict=True))


def train(objective: LabeledObjective, raw: Tensor, steps: int) -> list[float]:
    """Totals over steps of SGD on the features and all the objective trains; same draws each step."""
    optimizer = torch.optim.SGD([raw, *objective.parameters()], lr=0.02)
    totals = []
    for _ in range(steps):
        given = replace(batch(F.normalize(raw, dim=-1)), teacher_features=unit(CLASSES, 1)[TARGETS])
        loss = objective(given)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        totals.append(loss.total.item())
    return totals


@every_objective
def test_gradient_descent_lowers_the_total_and_the_served_head_learns(name: str) -> None:
    objective, raw = build(name), unit(IMAGES, 2).requires_grad_()
    totals = train(objective, raw, steps=80)
    assert totals[-1] < 0.7 * totals[0]
    features = F.normalize(raw.detach(), dim=-1)
    assert (features @ objective.served_head().T).argmax(dim=1).tolist() == TARGETS.tolist()


@every_objective
def test_logits_are_what_the_service_computes_from_the_served_head(name: str) -> None:
    objective, raw = build(name), unit(IMAGES, 2).requires_grad_()
    train(objective, raw, steps=3)
    features = unit(5, 6)
    served = objective.served_head()
    assert not served.requires_grad
    assert not torch.equal(served, objective.text)
    torch.testing.assert_close(objective.logits(features).detach(), SCALE * features @ served.T)


@every_objective
def test_served_head_starts_as_the_class_embeddings_and_is_a_copy(name: str) -> None:
    objective = build(name)
    objective.served_head().zero_()
    torch.testing.assert_close(objective.served_head(), unit(CLASSES, 1))


@every_objective
def test_class_embeddings_stay_fixed_and_travel_with_the_state(name: str) -> None:
    objective = build(name)
    train(objective, unit(IMAGES, 2).requires_grad_(), steps=3)
    assert "text" in objective.state_dict()
    assert "text" not in dict(objective.named_parameters())
    assert torch.equal(objective.text, unit(CLASSES, 1))


@every_objective
def test_saved_state_restores_the_total(name: str) -> None:
    trained, fresh = build(name), build(name, seed=9)
    train(trained, unit(IMAGES, 2).requires_grad_(), steps=3)
    fresh.load_state_dict(trained.state_dict())
    assert fresh(batch()).total.item() == trained(batch()).total.item()


@every_objective
def test_nan_features_give_a_nan_total_for_the_trainer_to_undo(name: str) -> None:
    features = unit(IMAGES, 2)
    features[0, 0] = torch.nan
    assert not build(name)(batch(features.requires_grad_())).total.isfinite()


@every_objective
@pytest.mark.parametrize(
    ("features", "targets", "message"),
    [
        (torch.ones(3), [0], r"got features \(3,\); expected \(N, D\)"),
        (torch.ones(0, WIDTH), [], r"N and D at least 1"),
        (torch.eye(3), [0, 1, 2], f"the head has width {WIDTH}"),
        (torch.eye(WIDTH)[:3], [0, 1], r"targets \(2,\); expected \(N, ·\) and \(N,\)"),
        (torch.eye(WIDTH)[:3], [0, 1, CLASSES], r"targets from 0 to 4; expected \[0, 4\)"),
        (torch.eye(WIDTH)[:3], [0, 1, -1], r"targets from -1 to 1"),
        (torch.eye(WIDTH)[:3], [0.0, 1.0, 2.0], r"type torch.float32; expected torch.int64"),
        (2 * torch.eye(WIDTH)[:3], [0, 1, 2], "1 off norm 1; normalise every row"),
    ],
)
def test_batches_that_do_not_fit_are_refused(
    name: str, features: Tensor, targets: list[float], message: str
) -> None:
    objective = build(name, unit(CLASSES, 1, torch.float32))
    given = LabeledBatch(features, torch.tensor(targets), seeded(), features)
    with pytest.raises(ObjectiveError, match=message):
        objective(given)


@every_objective
@pytest.mark.parametrize(
    ("embeddings", "scale", "message"),
    [
        (torch.eye(3), 0.0, "logit_scale 0.0; it must be above 0"),
        (torch.eye(3), float("nan"), "logit_scale nan; it must be above 0"),
        (torch.ones(3), 1.0, r"class embeddings \(3,\); expected \(N, D\)"),
        (3 * torch.eye(3), 1.0, "2 off norm 1"),
        (torch.full((2, 2), torch.nan), 1.0, "hold NaN or Inf"),
    ],
)
def test_class_embeddings_and_scales_of_no_use_are_refused(
    name: str, embeddings: Tensor, scale: float, message: str
) -> None:
    with pytest.raises(ObjectiveError, match=message):
        build(name, embeddings, scale)


@every_objective
def test_features_of_the_teacher_are_needed_exactly_where_declared(name: str) -> None:
    objective, given = build(name), batch()
    without = replace(given, teacher_features=None)
    misfit = replace(given, teacher_features=unit(IMAGES - 1, 3))
    if not objective.needs_teacher:
        assert objective(without).total.item() == objective(batch()).total.item()
        return
    with pytest.raises(ObjectiveError, match="needs the teacher's features"):
        objective(without)
    with pytest.raises(ObjectiveError, match=r"teacher's features \(7, 6\); expected \(8, 6\)"):
        objective(misfit)


@every_objective
def test_a_labeled_objective_is_found_by_name(name: str) -> None:
    assert labeled_objective(name) is LABELED[name]


def test_an_unknown_name_is_refused_naming_the_choices() -> None:
    expected = (
        "no labeled objective is called 'ueo'; choose one of cross-entropy, label-smoothing, "
    )
    with pytest.raises(ObjectiveError, match=expected):
        labeled_objective("ueo")
