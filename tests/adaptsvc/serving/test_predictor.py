"""One version answering: what an answer holds, and what is refused before it may answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adaptsvc.bootstrap import Ready
from adaptsvc.errors import ModelError, VersionCorruptError
from adaptsvc.images import ImageLimits, decode
from adaptsvc.providers import try_provider
from adaptsvc.serve_section import CudaSettings, ServeSettings
from adaptsvc.serving.encoder import Runtime, cuda_options, runtime_of
from adaptsvc.serving.encoder import build as build_encoder
from adaptsvc.serving.predictor import (
    Predictor,
    build,
    describe_self_test,
    logits_of,
    self_test_input,
)
from adaptsvc.types import Answer, Tensors, UInt8
from adaptsvc.versions.delta import Head
from adaptsvc.versions.manifest import Calibration, OodRule, SelfTest
from adaptsvc.versions.store import Version

IMAGES = 6


@pytest.fixture
def images(ready: Ready, png: Callable[..., bytes]) -> UInt8:
    preprocess = ready.encoder.base.preprocess
    return np.stack([decode(png(seed), preprocess, ImageLimits()) for seed in range(IMAGES)])


@pytest.fixture
def version(ready: Ready) -> Version:
    return ready.store.load(0)


@pytest.fixture
def build_tiny(ready: Ready) -> Callable[..., Predictor]:
    def make(version: Version, before: Predictor | None = None) -> Predictor:
        return build(ready.encoder.base, version, Runtime(), before=before)

    return make


@pytest.fixture
def delta(ready: Ready) -> Tensors:
    """For the first norm of the tower."""
    name = min(ready.encoder.base.swappable)
    shape = ready.clip.model.visual.get_parameter(name.removeprefix("visual.")).shape
    return {name: np.full(shape, 0.7, np.float32)}


def with_manifest(version: Version, **changes: Any) -> Version:
    return replace(version, manifest=version.manifest.model_copy(update=changes))


def with_temperature(version: Version, temperature: float) -> Version:
    calibration = Calibration(temperature=temperature, fitted_on="label-free")
    return with_manifest(version, calibration=calibration)


def confidences(answer: Answer) -> list[float]:
    return [prediction.confidence for prediction in answer.predictions]


def labels(answer: Answer) -> list[str]:
    return [prediction.label for prediction in answer.predictions]


def test_an_answer_has_the_version_and_one_prediction_per_image(
    build_tiny: Callable[..., Predictor], version: Version, images: UInt8
) -> None:
    answer = build_tiny(version).answer(images, 3)
    assert answer.version == 0
    assert len(answer.predictions) == IMAGES


def test_the_classes_come_best_first_and_add_up_to_one(
    build_tiny: Callable[..., Predictor], version: Version, images: UInt8
) -> None:
    for prediction in build_tiny(version).answer(images, 10).predictions:
        probabilities = [entry.probability for entry in prediction.top]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1)
        assert {entry.label for entry in prediction.top} == {"cat", "dog", "car"}
        assert (prediction.label, prediction.confidence) == (
            prediction.top[0].label,
            probabilities[0],
        )


def test_fewer_classes_are_the_best_of_all_with_the_same_probabilities(
    build_tiny: Callable[..., Predictor], version: Version, images: UInt8
) -> None:
    predictor = build_tiny(version)
    every, one = predictor.answer(images, 3), predictor.answer(images, 1)
    for whole, cut in zip(every.predictions, one.predictions, strict=True):
        assert cut.top == whole.top[:1]


def test_the_probabilities_are_the_softmax_of_the_scaled_cosines(
    build_tiny: Callable[..., Predictor], version: Version, images: UInt8
) -> None:
    predictor = build_tiny(with_temperature(version, 2.0))
    cosines = predictor.encoder.embed(images[:1]) @ version.head.class_embeddings.T
    expected = np.exp(20.0 * cosines[0] / 2.0)
    answer = predictor.answer(images[:1], 3).predictions[0]
    found = {entry.label: entry.probability for entry in answer.top}
    assert [found[name] for name in ("cat", "dog", "car")] == pytest.approx(
        expected / expected.sum(), rel=1e-4
    )


def test_temperature_changes_the_confidence_and_not_the_label(
    build_tiny: Callable[..., Predictor], version: Version, images: UInt8
) -> None:
    cold, warm = (
        build_tiny(with_temperature(version, temperature)).answer(images, 3)
        for temperature in (0.5, 4.0)
    )
    assert labels(cold) == labels(warm)
    assert all(a > b for a, b in zip(confidences(cold), confidences(warm), strict=True))


def test_temperature_leaves_the_ood_score(
    build_tiny: Callable[..., Predictor], version: Version, images: UInt8
) -> None:
    cold, warm = (
        build_tiny(with_temperature(version, temperature)).answer(images, 1)
        for temperature in (0.5, 4.0)
    )
    assert [p.ood_score for p in cold.predictions] == [p.ood_score for p in warm.predictions]


def test_nothing_is_out_of_distribution_or_in_it_before_there_is_a_threshold(
    build_tiny: Callable[..., Predictor], version: Version, images: UInt8
) -> None:
    answer = build_tiny(version).answer(images, 1)
    assert {prediction.is_ood for prediction in answer.predictions} == {None}


@pytest.mark.parametrize("score", ["msp", "mcm", "energy", "max_logit", "entropy"])
def test_an_image_is_out_of_distribution_over_the_threshold(
    build_tiny: Callable[..., Predictor], version: Version, images: UInt8, score: str
) -> None:
    def answer(threshold: float | None) -> Answer:
        rule = OodRule.model_validate(
            {"score": score, "threshold": threshold, "fitted_on": "window"}
        )
        return build_tiny(with_manifest(version, ood=rule)).answer(images, 1)

    scores = [prediction.ood_score for prediction in answer(None).predictions]
    middle = float(np.median(scores))
    flagged = [prediction.is_ood for prediction in answer(middle).predictions]
    assert flagged == [value > middle for value in scores]
    assert True in flagged
    assert False in flagged


def test_what_was_published_passes_its_self_test(
    build_tiny: Callable[..., Predictor], version: Version
) -> None:
    predictor = build_tiny(version)
    predictor.self_test()
    test, expected = describe_self_test(predictor.encoder, version.manifest.self_test.seed)
    assert test == version.manifest.self_test
    np.testing.assert_allclose(version.head.self_test_embeddings, expected, atol=1e-5)


def test_the_self_test_fails_when_its_expected_outputs_are_altered(
    build_tiny: Callable[..., Predictor], version: Version
) -> None:
    expected = version.head.self_test_embeddings.copy()
    expected[0, 0] += 0.01
    head = replace(version.head, self_test_embeddings=expected)
    with pytest.raises(VersionCorruptError, match=r"answers its self-test 0\.01 away"):
        build_tiny(replace(version, head=head)).self_test()


def test_the_self_test_fails_when_the_delta_is_altered(
    build_tiny: Callable[..., Predictor], version: Version, delta: Tensors
) -> None:
    with pytest.raises(VersionCorruptError, match="activate another version"):
        build_tiny(replace(version, delta=delta)).self_test()


def test_the_self_test_fails_when_the_model_answers_nan(
    build_tiny: Callable[..., Predictor], version: Version, delta: Tensors
) -> None:
    broken = {name: np.full_like(value, np.nan) for name, value in delta.items()}
    with pytest.raises(VersionCorruptError, match="answers its self-test nan away"):
        build_tiny(replace(version, delta=broken)).self_test()


def test_the_self_test_fails_when_its_input_is_drawn_otherwise(
    build_tiny: Callable[..., Predictor], version: Version
) -> None:
    test: SelfTest = version.manifest.self_test.model_copy(update={"seed": 1})
    with pytest.raises(VersionCorruptError, match="this numpy draws other numbers"):
        build_tiny(with_manifest(version, self_test=test)).self_test()


def test_a_head_for_other_classes_is_refused(
    build_tiny: Callable[..., Predictor], version: Version
) -> None:
    head: Head = replace(version.head, class_embeddings=version.head.class_embeddings[:2])
    with pytest.raises(VersionCorruptError, match="has 2 classes, the manifest names 3"):
        build_tiny(replace(version, head=head))


def test_a_delta_for_a_parameter_the_base_cannot_swap_is_refused(
    build_tiny: Callable[..., Predictor], version: Version
) -> None:
    foreign = {"visual.proj": np.zeros((64, 32), np.float32)}
    with pytest.raises(VersionCorruptError, match=r"changes \['visual.proj'\]"):
        build_tiny(replace(version, delta=foreign))


def test_the_predictor_before_goes_on_answering_as_it_did(
    build_tiny: Callable[..., Predictor], version: Version, delta: Tensors, images: UInt8
) -> None:
    before = build_tiny(version)
    answer = before.answer(images, 3)
    after = build_tiny(replace(version, delta=delta), before)
    assert confidences(after.answer(images, 3)) != confidences(answer)
    assert before.answer(images, 3) == answer


def test_eight_threads_get_the_answers_one_would(
    build_tiny: Callable[..., Predictor], version: Version, delta: Tensors, images: UInt8
) -> None:
    first = build_tiny(version)
    second = build_tiny(replace(version, delta=delta), first)
    expected = first.answer(images, 3), second.answer(images, 3)
    with ThreadPoolExecutor(8) as pool:
        both = [pool.submit(p.answer, images, 3) for _ in range(32) for p in (first, second)]
        answers = [future.result() for future in both]
    assert answers == [*expected] * 32


def test_logits_are_scaled_dot_products_in_double_precision() -> None:
    embeddings = np.array([[1, 0], [0.6, 0.8]], np.float32)
    classes = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    logits = logits_of(embeddings, classes, 10.0)
    np.testing.assert_allclose(logits, [[10, 0, -10], [6, 8, -6]], rtol=1e-6)
    assert logits.dtype == np.float64


@pytest.mark.parametrize("size", [7, 32, 160])
def test_the_self_test_input_is_the_same_every_time_and_of_any_size(size: int) -> None:
    pixels = self_test_input(3, 2, size)
    assert pixels.shape == (2, 3, size, size)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, self_test_input(3, 2, size))
    assert not np.array_equal(pixels, self_test_input(4, 2, size))


@pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
def test_a_delta_of_another_shape_is_refused_before_it_is_fed(
    version: Version, ready: Ready
) -> None:
    name = min(ready.encoder.base.swappable)
    delta = {name: np.ones(3, np.float32)}
    with pytest.raises(ModelError, match=rf"gives {re.escape(name)} the shape \(3,\)"):
        build(ready.encoder.base, replace(version, delta=delta), Runtime())


def test_bound_inputs_and_outputs_give_the_same_answers(
    ready: Ready, images: UInt8, delta: Tensors
) -> None:
    """On the CPU, where the delta is kept and nothing has to be copied; with a delta and without."""
    for changed in ({}, delta):
        plain = build_encoder(ready.encoder.base, changed, Runtime())
        bound = build_encoder(ready.encoder.base, changed, Runtime(bind=True))
        for count in (1, IMAGES):
            np.testing.assert_array_equal(bound.embed(images[:count]), plain.embed(images[:count]))


def test_bound_calls_at_once_do_not_mix(ready: Ready, images: UInt8, delta: Tensors) -> None:
    bound = build_encoder(ready.encoder.base, delta, Runtime(bind=True))
    expected = [bound.embed(images[k : k + 1]) for k in range(IMAGES)]
    with ThreadPoolExecutor(IMAGES) as pool:
        found = list(pool.map(lambda k: bound.embed(images[k : k + 1]), list(range(IMAGES)) * 4))
    for k, each in enumerate(found):
        np.testing.assert_array_equal(each, expected[k % IMAGES])


def test_settings_become_options_of_the_cuda_provider_only_where_it_is_asked_for() -> None:
    cuda = CudaSettings(device_id=1, memory_bytes=2**30, convolution_search="heuristic", tf32=True)
    assert dict(cuda_options(cuda)) == {
        "device_id": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "1",
        "gpu_mem_limit": str(2**30),
        "arena_extend_strategy": "kSameAsRequested",
    }
    assert "gpu_mem_limit" not in dict(cuda_options(CudaSettings()))
    asked = runtime_of(ServeSettings(device="cuda", cuda=cuda), 2)
    assert (asked.device, asked.threads, asked.bind) == ("cuda", 2, True)
    assert asked.options == cuda_options(cuda)
    assert runtime_of(ServeSettings(cuda=cuda), 2) == Runtime("cpu", 2)


@pytest.mark.gpu
@pytest.mark.skipif(
    not try_provider("CUDAExecutionProvider").runs, reason="no CUDA provider runs here"
)
def test_on_cuda_bound_answers_are_those_of_the_cpu(
    ready: Ready, images: UInt8, delta: Tensors
) -> None:
    asked = runtime_of(ServeSettings(device="cuda"), 1)
    there = build_encoder(ready.encoder.base, delta, asked)
    here = build_encoder(ready.encoder.base, delta, Runtime())
    assert there.provider == "CUDAExecutionProvider"
    assert there.session.get_provider_options()[there.provider]["use_tf32"] == "0"
    np.testing.assert_allclose(there.embed(images), here.embed(images), atol=1e-3)
