"""Metrics: every event is counted where it should be, and nothing is registered by importing."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from adaptsvc.metrics import Observer
from adaptsvc.prometheus import PrometheusObserver
from adaptsvc.trust.shadow import Tally
from adaptsvc.types import ClassProbability, Prediction

ROOT = Path(__file__).parents[2]
Labels = dict[str, str]
Change = tuple[str, Labels, float]


def prediction(label: str = "cat", is_ood: bool | None = False) -> Prediction:
    return Prediction(label, 0.75, (ClassProbability(label, 0.75),), 0.25, is_ood)


ANSWERS = [prediction(), prediction(), prediction("dog", True), prediction("dog", None)]
EVENTS: dict[str, tuple[Callable[[Observer], None], list[Change]]] = {
    "predicted": (
        lambda observer: observer.predicted(ANSWERS),
        [
            ("adaptsvc_predictions_total", {"label": "cat", "ood": "no"}, 2),
            ("adaptsvc_predictions_total", {"label": "dog", "ood": "yes"}, 1),
            ("adaptsvc_predictions_total", {"label": "dog", "ood": "unknown"}, 1),
            ("adaptsvc_confidence_sum", {}, 3.0),
            ("adaptsvc_ood_score_count", {}, 4),
        ],
    ),
    "batched": (
        lambda observer: observer.batched(4),
        [("adaptsvc_batch_images_count", {}, 1), ("adaptsvc_batch_images_sum", {}, 4)],
    ),
    "inside": (lambda observer: observer.inside(5), [("adaptsvc_inside_images", {}, 5)]),
    "shed": (
        lambda observer: observer.shed("deadline"),
        [("adaptsvc_shed_total", {"reason": "deadline"}, 1)],
    ),
    "spared": (lambda observer: observer.spared(3), [("adaptsvc_spared_images_total", {}, 3)]),
    "inference_alive": (
        lambda observer: observer.inference_alive(True),
        [("adaptsvc_inference_alive", {}, 1)],
    ),
    "fell_back": (
        lambda observer: observer.fell_back(True),
        [("adaptsvc_device_fallback", {}, 1)],
    ),
    "stage": (
        lambda observer: observer.stage("decode", 0.125),
        [("adaptsvc_stage_seconds_sum", {"stage": "decode"}, 0.125)],
    ),
    "swapped": (
        lambda observer: observer.swapped(12, 0.5),
        [
            ("adaptsvc_serving_version", {}, 12),
            ("adaptsvc_swap_seconds_sum", {}, 0.5),
            ("adaptsvc_swaps_total", {"outcome": "ok"}, 1),
        ],
    ),
    "swap_failed": (
        lambda observer: observer.swap_failed("altered"),
        [("adaptsvc_swaps_total", {"outcome": "altered"}, 1)],
    ),
    "shadowed": (
        lambda observer: observer.shadowed("differed"),
        [("adaptsvc_shadow_images_total", {"outcome": "differed"}, 1)],
    ),
    "shadow_figures": (
        lambda observer: observer.shadow_figures(Tally(images=4, agreed=3, shift=-0.4)),
        [
            ("adaptsvc_shadow", {"figure": "images"}, 4),
            ("adaptsvc_shadow", {"figure": "agreement"}, 0.75),
            ("adaptsvc_shadow", {"figure": "confidence_shift"}, -0.1),
        ],
    ),
    "shadow_decided": (
        lambda observer: observer.shadow_decided("overtaken"),
        [("adaptsvc_shadow_decisions_total", {"outcome": "overtaken"}, 1)],
    ),
    "refusing": (
        lambda observer: observer.refusing(True),
        [("adaptsvc_version_refused", {}, 1)],
    ),
    "denied": (
        lambda observer: observer.denied("no_key"),
        [("adaptsvc_denied_total", {"why": "no_key"}, 1)],
    ),
    "sampled": (
        lambda observer: observer.sampled("queue_full", 3),
        [("adaptsvc_samples_total", {"outcome": "queue_full"}, 3)],
    ),
    "received": (
        lambda observer: observer.received("images.unlabeled", "learned", 3),
        [("adaptsvc_messages_total", {"topic": "images.unlabeled", "outcome": "learned"}, 3)],
    ),
    "labels_joined": (
        lambda observer: observer.labels_joined(3),
        [("adaptsvc_labels_joined_total", {}, 3)],
    ),
    "label_trouble": (
        lambda observer: observer.label_trouble("expired", 2),
        [("adaptsvc_label_trouble_total", {"trouble": "expired"}, 2)],
    ),
    "labels_waiting": (
        lambda observer: observer.labels_waiting(7),
        [("adaptsvc_labels_waiting", {}, 7)],
    ),
    "waiting": (
        lambda observer: observer.waiting(9),
        [("adaptsvc_stream_lag_messages", {}, 9)],
    ),
    "round_ended": (
        lambda observer: observer.round_ended("ueo", "promoted", 2.5, 512),
        [
            ("adaptsvc_rounds_total", {"method": "ueo", "outcome": "promoted"}, 1),
            ("adaptsvc_round_seconds_sum", {}, 2.5),
            ("adaptsvc_round_images_total", {}, 512),
        ],
    ),
    "judged": (
        lambda observer: observer.judged(1.5, 0.875, 1.25),
        [
            ("adaptsvc_marginal_entropy_nats", {}, 1.5),
            ("adaptsvc_agreement_with_zero_shot", {}, 0.875),
            ("adaptsvc_temperature", {}, 1.25),
        ],
    ),
    "estimated": (
        lambda observer: observer.estimated(0.75),
        [("adaptsvc_accuracy_estimate", {}, 0.75)],
    ),
    "drifted": (
        lambda observer: observer.drifted("embedding", 0.25, True),
        [
            ("adaptsvc_drift", {"signal": "embedding"}, 0.25),
            ("adaptsvc_drift_alarm", {"signal": "embedding"}, 1),
        ],
    ),
    "went_back": (
        lambda observer: observer.went_back(),
        [("adaptsvc_returns_total", {}, 1)],
    ),
    "checkpointed": (
        lambda observer: observer.checkpointed(1e9),
        [("adaptsvc_checkpoint_timestamp_seconds", {}, 1e9)],
    ),
    "checkpoints_refused": (
        lambda observer: observer.checkpoints_refused(2),
        [("adaptsvc_checkpoints_refused_total", {}, 2)],
    ),
    "disk_full": (
        lambda observer: observer.disk_full(True),
        [("adaptsvc_disk_full", {}, 1)],
    ),
    "state_reached": (
        lambda observer: observer.state_reached(False),
        [("adaptsvc_state_up", {}, 0), ("adaptsvc_state_outages_total", {}, 1)],
    ),
}
every_event = pytest.mark.parametrize("event", EVENTS)


def methods(kind: type[Observer]) -> set[str]:
    found = inspect.getmembers(kind, inspect.isfunction)
    return {name for name, _ in found if not name.startswith("_")}


def test_every_event_an_observer_is_told_of_is_checked_here() -> None:
    assert methods(Observer) == methods(PrometheusObserver) == set(EVENTS)


@every_event
def test_an_event_changes_its_metrics(event: str) -> None:
    tell, changes = EVENTS[event]
    registry = CollectorRegistry()
    tell(PrometheusObserver(registry))
    for name, labels, value in changes:
        assert registry.get_sample_value(name, labels) == pytest.approx(value), (name, labels)


@every_event
def test_an_event_told_twice_counts_twice_and_sets_a_gauge_once(event: str) -> None:
    tell, changes = EVENTS[event]
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    gauges = {metric.name for metric in registry.collect() if metric.type == "gauge"}
    tell(observer)
    tell(observer)
    for name, labels, value in changes:
        expected = value if name in gauges else 2 * value
        assert registry.get_sample_value(name, labels) == pytest.approx(expected), (name, labels)


@every_event
def test_the_plain_observer_does_nothing_with_an_event(event: str) -> None:
    tell, _ = EVENTS[event]
    observer = Observer()
    tell(observer)
    assert vars(observer) == {}


def test_both_observers_take_the_same_arguments() -> None:
    for name in methods(Observer):
        plain, counting = getattr(Observer, name), getattr(PrometheusObserver, name)
        assert inspect.signature(plain) == inspect.signature(counting)


def test_all_metrics_carry_the_prefix_and_a_help_text_and_no_version_label() -> None:
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    for tell, _ in EVENTS.values():
        tell(observer)
    for metric in registry.collect():
        assert metric.name.startswith("adaptsvc_")
        assert metric.documentation
        assert all("version" not in sample.labels for sample in metric.samples)


@every_event
def test_a_counter_of_closed_labels_is_there_at_0_before_its_first_event(event: str) -> None:
    """Else `increase` misses that event, and an alert cannot tell a healthy system from a misspelt one."""
    _, changes = EVENTS[event]
    registry = CollectorRegistry()
    PrometheusObserver(registry)
    counters = {metric.name + "_total" for metric in registry.collect() if metric.type == "counter"}
    for name, labels, _ in changes:
        if name in counters and "label" not in labels:  # class names are the installation's own
            assert registry.get_sample_value(name, labels) == 0, (name, labels)


def test_all_metrics_of_an_event_appear_on_the_page() -> None:
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    for tell, _ in EVENTS.values():
        tell(observer)
    page = generate_latest(registry).decode()
    assert 'adaptsvc_predictions_total{label="cat",ood="no"} 2.0' in page
    assert "adaptsvc_serving_version 12.0" in page


@pytest.mark.parametrize(
    "score", [-24.0, -0.3, 0.02, 0.9], ids=["energy", "max_logit", "msp", "mcm"]
)
def test_an_ood_score_of_any_kind_falls_into_a_bucket_with_two_ends(score: float) -> None:
    registry = CollectorRegistry()
    PrometheusObserver(registry).predicted([Prediction("cat", 0.5, (), score, None)])
    samples = [s for metric in registry.collect() for s in metric.samples]
    counts = [s.value for s in samples if s.name == "adaptsvc_ood_score_bucket"]
    assert counts[0] == 0
    assert counts[-2:] == [1, 1]


def test_observers_with_registries_of_their_own_do_not_meet() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    PrometheusObserver(first).waiting(3)
    PrometheusObserver(second)
    assert second.get_sample_value("adaptsvc_stream_lag_messages") == 0


def test_a_registry_takes_one_observer_only() -> None:
    registry = CollectorRegistry()
    PrometheusObserver(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        PrometheusObserver(registry)


def test_importing_registers_nothing() -> None:
    """In a process of its own, where no other test can have registered anything."""
    program = (
        "import adaptsvc.metrics, prometheus_client\n"
        "names = [metric.name for metric in prometheus_client.REGISTRY.collect()]\n"
        "print([name for name in names if name.startswith('adaptsvc')])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_state_is_up_until_it_is_said_to_be_gone_and_again_when_it_is_back() -> None:
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    assert registry.get_sample_value("adaptsvc_state_up") == 1
    observer.state_reached(False)
    observer.state_reached(True)
    assert registry.get_sample_value("adaptsvc_state_up") == 1
    assert registry.get_sample_value("adaptsvc_state_outages_total") == 1
