"""A candidate becomes the serving version, or a record of why it did not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adaptsvc.adapt.window import Sample
from adaptsvc.bootstrap import Ready
from adaptsvc.config import Settings
from adaptsvc.errors import ParityError
from adaptsvc.evidence import RoundContext, embed_all
from adaptsvc.learner import Candidate, Learner
from adaptsvc.publishing import Decision, Publisher
from adaptsvc.sections import GuardSettings, OodSettings
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.predictor import Predictor, build, logits_of
from adaptsvc.trust.calibration import softmax
from adaptsvc.versions.store import VersionStore

pytestmark = pytest.mark.usefixtures("one_thread")
Samples = tuple[Sample, ...]
Decide = Callable[..., Decision]
OFFSETS = {"images.unlabeled/0": 12, "images.unlabeled/1": 7}
SEED = 5


@pytest.fixture
def candidate(learner: Learner, window: Samples, prepared: Settings) -> Candidate:
    """Learned a little: enough to change answers, not enough to be refused."""
    return learner.learn(window, prepared.learn, SEED, between_steps=lambda: None)


@pytest.fixture
def decide(ready: Ready, learner: Learner, window: Samples, prepared: Settings) -> Decide:
    def run(candidate: Candidate, settings: Settings = prepared) -> Decision:
        publisher = Publisher(ready.store, ready.pointer, Runtime(), settings)
        context = RoundContext(ready.store.load(0), window, (), OFFSETS, SEED)
        return publisher.decide(learner, candidate, context)

    return run


def disagreeing(candidate: Candidate) -> Candidate:
    """Every answer becomes the next class's."""
    return replace(candidate, class_embeddings=np.roll(candidate.class_embeddings, 1, axis=0))


def served(settings: Settings, version: int) -> Predictor:
    """As another process would build it, from disk alone."""
    store = VersionStore(settings.store)
    loaded = store.load(version)
    return build(store.base(loaded.manifest.base), loaded, Runtime())


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def confidence(predictor: Predictor, window: Samples) -> float:
    answer = predictor.answer(np.stack([sample.pixels for sample in window]), 1)
    return float(np.mean([prediction.confidence for prediction in answer.predictions]))


def test_a_promoted_candidate_is_in_the_store_and_serves(
    decide: Decide, candidate: Candidate, ready: Ready
) -> None:
    decision = decide(candidate)
    assert (decision.outcome, decision.version, decision.reasons) == ("promoted", 1, ())
    assert ready.store.ids() == [0, 1]
    assert (ready.pointer.read().version, ready.pointer.read().sequence) == (1, 2)
    assert ready.store.refused() == []


def test_a_promoted_version_passes_its_self_test_when_built_anew_from_disk(
    decide: Decide, candidate: Candidate, prepared: Settings
) -> None:
    decide(candidate)
    predictor = served(prepared, 1)
    predictor.self_test()
    with pytest.raises(AssertionError):  # and it is not the version before it
        np.testing.assert_allclose(
            predictor.version.head.self_test_embeddings,
            served(prepared, 0).version.head.self_test_embeddings,
            atol=1e-6,
        )


def test_a_promoted_version_answers_as_the_candidate_does_in_torch(
    decide: Decide, candidate: Candidate, learner: Learner, window: Samples, prepared: Settings
) -> None:
    decide(candidate)
    predictor = served(prepared, 1)
    learner.check_parity(candidate, predictor.encoder, window)
    np.testing.assert_array_equal(
        predictor.version.head.class_embeddings, candidate.class_embeddings
    )


def test_a_version_ships_its_delta_and_head_alone_and_is_small(
    decide: Decide, candidate: Candidate, ready: Ready, prepared: Settings
) -> None:
    decide(candidate)
    folder = prepared.store / "versions" / "000001"
    assert sorted(path.name for path in folder.iterdir()) == [
        "delta.safetensors",
        "head.safetensors",
        "manifest.json",
    ]
    assert size_bytes(folder) < 0.1 * size_bytes(ready.encoder.base.directory)
    assert [path.name for path in (prepared.store / "base").iterdir()] == [
        ready.encoder.base.digest
    ]


def test_a_manifest_says_where_its_version_comes_from(
    decide: Decide, candidate: Candidate, ready: Ready, prepared: Settings
) -> None:
    decide(candidate)
    zero, one = ready.store.manifest(0), ready.store.manifest(1)
    assert one.parent == 0
    assert one.method == "ueo"
    assert one.offsets == OFFSETS
    assert one.seed == SEED
    assert one.config == prepared.learn.model_dump(mode="json")
    for key in ("base", "model", "classes", "prompt", "logit_scale"):
        assert getattr(one, key) == getattr(zero, key)


def test_a_manifest_has_the_figures_of_its_round(
    decide: Decide, candidate: Candidate, ready: Ready
) -> None:
    decision = decide(candidate)
    metrics = ready.store.manifest(1).metrics
    assert metrics == {
        **candidate.losses,
        "guard_marginal_entropy_nats": decision.evidence.verdict.marginal_entropy_nats,
        "guard_agreement": decision.evidence.verdict.agreement,
        "accuracy_estimate": decision.evidence.estimate.accuracy,
        "gain_over_zero_shot_estimate": decision.evidence.estimate.gain,
        "gain_over_zero_shot_bound": 1 - decision.evidence.estimate.agreement,
        "window_images": 12.0,
        "stepped_images": 16.0,
    }


def test_the_temperature_takes_back_the_windows_mean_confidence(
    decide: Decide, candidate: Candidate, window: Samples, ready: Ready, prepared: Settings
) -> None:
    lenient = prepared.guard.model_copy(update={"marginal_entropy_kept": 0.0})
    sharper = replace(candidate, class_embeddings=4 * candidate.class_embeddings)
    decision = decide(sharper, prepared.model_copy(update={"guard": lenient}))
    zero_shot = float(np.mean([sample.zero_shot.max() for sample in window]))
    calibration = ready.store.manifest(1).calibration
    assert calibration.temperature == decision.evidence.calibration.temperature > 1.0
    assert calibration.fitted_on == "label-free"
    assert confidence(served(prepared, 1), window) == pytest.approx(zero_shot, abs=1e-3)


def test_the_threshold_accepts_the_share_of_the_window_that_was_asked_for(
    decide: Decide, candidate: Candidate, window: Samples, prepared: Settings
) -> None:
    settings = prepared.model_copy(update={"ood": OodSettings(score="energy", accepted=0.75)})
    decide(candidate, settings)
    pixels = np.stack([sample.pixels for sample in window])
    flags = [p.is_ood for p in served(prepared, 1).answer(pixels, 1).predictions]
    assert flags.count(True) == 3


def test_a_refused_candidate_is_recorded_and_nothing_else_changes(
    decide: Decide, candidate: Candidate, ready: Ready
) -> None:
    before = ready.pointer.read()
    decision = decide(disagreeing(candidate))
    assert (decision.outcome, decision.version) == ("refused", 0)
    assert "disagrees_with_zero_shot" in decision.reasons
    assert ready.store.ids() == [0]
    assert sorted(path.name for path in (ready.store.root / "versions").iterdir()) == ["000000"]
    assert ready.pointer.read() == before
    (folder,) = ready.store.refused()
    record = json.loads((folder / "reason.json").read_text())
    assert record["reasons"] == list(decision.reasons)
    assert record["draft"]["offsets"] == OFFSETS


def test_a_candidate_that_pours_all_images_into_one_class_is_refused(
    decide: Decide, candidate: Candidate, ready: Ready, window: Samples
) -> None:
    toward = embed_all(ready.encoder, window).mean(axis=0)
    toward /= np.linalg.norm(toward)
    collapsed = replace(candidate, class_embeddings=np.stack([toward, -toward, -toward]))
    decision = decide(collapsed)
    assert "marginal_collapsed" in decision.reasons
    assert ready.store.ids() == [0]


def test_the_guards_limits_are_the_settings(
    decide: Decide, candidate: Candidate, prepared: Settings
) -> None:
    lenient = GuardSettings(agreement=0.0, marginal_entropy_kept=0.0, class_kept=0.0)
    settings = prepared.model_copy(update={"guard": lenient})
    assert decide(disagreeing(candidate), settings).outcome == "promoted"


def test_a_candidate_whose_parent_no_longer_serves_is_a_conflict(
    decide: Decide, candidate: Candidate, ready: Ready
) -> None:
    assert decide(candidate).outcome == "promoted"
    decision = decide(candidate)  # made from version 0 as well, where 1 serves by now
    assert decision.outcome == "conflict"
    assert "made from version 0, but 1 serves" in decision.reasons[0]
    assert ready.pointer.read().version == 1


def test_a_candidate_that_onnx_runtime_answers_otherwise_is_neither_published_nor_refused(
    decide: Decide, candidate: Candidate, ready: Ready
) -> None:
    other = replace(candidate, delta={k: v * 1.5 + 0.3 for k, v in candidate.delta.items()})
    with pytest.raises(ParityError):
        decide(other)
    assert ready.store.ids() == [0]
    assert ready.store.refused() == []
    assert ready.pointer.read().version == 0


def test_the_window_is_embedded_in_batches_as_it_would_be_at_once(
    ready: Ready, window: Samples
) -> None:
    many = window * 6  # over two batches of 32
    pixels = np.stack([sample.pixels for sample in many])
    np.testing.assert_allclose(
        embed_all(ready.encoder, many), ready.encoder.embed(pixels), atol=1e-5
    )


def test_the_verdict_is_on_the_logits_before_the_temperature(
    decide: Decide, candidate: Candidate, window: Samples, ready: Ready, prepared: Settings
) -> None:
    decision = decide(candidate)
    embeddings = embed_all(served(prepared, 1).encoder, window)
    mean = softmax(logits_of(embeddings, candidate.class_embeddings, 20.0)).mean(axis=0)
    entropy = float(-(mean * np.log(mean)).sum())
    assert decision.evidence.verdict.marginal_entropy_nats == pytest.approx(entropy, abs=1e-5)
