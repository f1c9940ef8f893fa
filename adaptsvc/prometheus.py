"""What is counted, as Prometheus metrics.

They are registered when a `PrometheusObserver` is built, at start-up, never at import. Label sets are closed;
no version number is ever a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from adaptsvc.drift_summary import SignalName
from adaptsvc.metric_kinds import PREFIX, counter, gauge, histogram
from adaptsvc.metrics import (
    Denial,
    LabelTrouble,
    MessageOutcome,
    Observer,
    Outcome,
    SampleOutcome,
    ShadowOutcome,
    Shed,
    Stage,
    SwapFailure,
)
from adaptsvc.shadow_record import Figures, TrialOutcome
from adaptsvc.trust.shadow import Tally
from adaptsvc.types import Prediction
from adaptsvc.versions.manifest import Method

SHARE_BUCKETS = tuple(step / 20 for step in range(1, 20))
# msp and mcm lie in [0, 1], entropy in [0, log C], energy and max_logit in about [-scale, 0].
OOD_BUCKETS = (*range(-60, 0, 4), 0.0, *SHARE_BUCKETS, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
TOPICS = ("images.unlabeled", "images.labeled")  # what the worker reads
ROUND_BUCKETS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
SHADOW_FIGURES = {"images", "agreement", "confidence_shift", "latency_ratio"}


class PrometheusObserver(Observer):
    """Writes the metrics of docs/metrics.md.

    Args:
        registry: where they are registered; in a process of several, each has its own files and
            prometheus_client adds them up.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._serving(registry)
        self._overload(registry)
        self._guarding(registry)
        self._swapping(registry)
        self._sampling(registry)
        self._learning(registry)
        self._labeling(registry)
        self._judging(registry)
        self._drifting(registry)
        self._shadowing(registry)
        self._sharing(registry)

    def _serving(self, registry: CollectorRegistry) -> None:
        self._predictions = Counter(
            f"{PREFIX}_predictions_total",
            "Images answered, by class and by whether they are out of distribution.",
            ["label", "ood"],
            registry=registry,
        )
        self._confidence = histogram(
            "confidence", "Calibrated confidence of the chosen class.", registry, SHARE_BUCKETS
        )
        self._ood_score = histogram(
            "ood_score", "Out-of-distribution score.", registry, OOD_BUCKETS
        )
        self._stage = histogram(
            "stage_seconds", "Time of one stage of a request.", registry, SECONDS_BUCKETS, ["stage"]
        )
        self._batch = histogram(
            "batch_images", "Images per inference call.", registry, BATCH_BUCKETS
        )

    def _overload(self, registry: CollectorRegistry) -> None:
        self._inside = Gauge(
            f"{PREFIX}_inside_images",
            "Images that wait or are being computed, all processes together.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._shed = counter(
            "shed_total",
            "Requests turned away or given up, by why.",
            registry,
            reason=get_args(Shed),
        )
        self._spared = counter(
            "spared_images_total",
            "Images not computed because nobody waited for them any more.",
            registry,
        )
        self._alive = Gauge(
            f"{PREFIX}_inference_alive",
            "1 while the last canary inference of every process was right and in time.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._alive.set(1)
        self._fallback = Gauge(
            f"{PREFIX}_device_fallback",
            "1 while inference runs on the CPU though another device was asked for.",
            registry=registry,
            multiprocess_mode="livemax",
        )

    def _guarding(self, registry: CollectorRegistry) -> None:
        self._denied = counter(
            "denied_total",
            "Requests turned away before their route, by why.",
            registry,
            why=get_args(Denial),
        )

    def _swapping(self, registry: CollectorRegistry) -> None:
        self._version = Gauge(
            f"{PREFIX}_serving_version",
            "The version that serves, per process.",
            registry=registry,
            multiprocess_mode="liveall",
        )
        self._swap_seconds = histogram(
            "swap_seconds", "From seeing a new version to serving it.", registry, SECONDS_BUCKETS
        )
        self._swaps = counter(
            "swaps_total",
            "Swaps: ok, or why a version was not taken.",
            registry,
            outcome=("ok", *chain.from_iterable(map(get_args, get_args(SwapFailure)))),
        )
        self._refusing = Gauge(
            f"{PREFIX}_version_refused",
            "1 while a service process refuses the version that should serve.",
            registry=registry,
            multiprocess_mode="livemax",
        )

    def _sampling(self, registry: CollectorRegistry) -> None:
        self._samples = counter(
            "samples_total",
            "Answered images chosen for the stream: published, or why not.",
            registry,
            outcome=get_args(SampleOutcome),
        )

    def _learning(self, registry: CollectorRegistry) -> None:
        self._messages = counter(
            "messages_total",
            "Messages dealt with, by outcome.",
            registry,
            topic=TOPICS,
            outcome=get_args(MessageOutcome),
        )
        self._lag = gauge("stream_lag_messages", "Messages not read yet.", registry)
        self._rounds = counter(
            "rounds_total",
            "Rounds, by outcome.",
            registry,
            method=get_args(Method),
            outcome=get_args(Outcome),
        )
        self._round_seconds = histogram(
            "round_seconds", "Time of one round.", registry, ROUND_BUCKETS
        )
        self._round_images = counter(
            "round_images_total", "Images rounds have stepped on.", registry
        )
        age = "Unix time of the last checkpoint; its age is time() minus it."
        self._checkpoint = gauge("checkpoint_timestamp_seconds", age, registry)
        self._refused_checkpoints = counter(
            "checkpoints_refused_total",
            "Checkpoints that a starting worker could not read; it took the one before, or none.",
            registry,
        )
        self._disk_full = gauge(
            "disk_full", "1 while the worker waits for room on a disk.", registry
        )

    def _labeling(self, registry: CollectorRegistry) -> None:
        self._joined = counter(
            "labels_joined_total",
            "Labels that found their image, before it came or after.",
            registry,
        )
        self._label_trouble = counter(
            "label_trouble_total",
            "Labels said again, contradicting an older one, or buried, by why.",
            registry,
            trouble=get_args(LabelTrouble),
        )
        self._labels_waiting = gauge(
            "labels_waiting", "Labels whose image has not come yet.", registry
        )

    def _judging(self, registry: CollectorRegistry) -> None:
        self._entropy = gauge("marginal_entropy_nats", "Of the last candidate's answers.", registry)
        self._agreement = gauge(
            "agreement_with_zero_shot",
            "Of the last candidate, where the zero-shot model is confident.",
            registry,
        )
        self._temperature = gauge("temperature", "Of the last candidate.", registry)
        self._accuracy = gauge(
            "accuracy_estimate",
            "Of the version promoted last, on its window, estimated without labels.",
            registry,
        )
        self._returns = counter(
            "returns_total",
            "Times an earlier version was made to serve after too many refused rounds.",
            registry,
        )

    def _drifting(self, registry: CollectorRegistry) -> None:
        self._drift = gauge(
            "drift",
            "How far recent images are from the reference, 0 to 1, by signal.",
            registry,
            ["signal"],
        )
        self._drift_alarm = gauge(
            "drift_alarm", "1 while a signal of drift is an alarm.", registry, ["signal"]
        )

    def _shadowing(self, registry: CollectorRegistry) -> None:
        self._shadowed = counter(
            "shadow_images_total",
            "Live images chosen for a candidate, by what came of it.",
            registry,
            outcome=get_args(ShadowOutcome),
        )
        self._shadow = gauge(
            "shadow", "Of the candidate tried last, by figure.", registry, ["figure"]
        )
        self._trials = counter(
            "shadow_decisions_total",
            "Trials that are over.",
            registry,
            outcome=get_args(TrialOutcome),
        )

    def _sharing(self, registry: CollectorRegistry) -> None:
        self._state_up = Gauge(
            f"{PREFIX}_state_up",
            "1 while the shared state answers (files always do), 0 while it does not.",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self._state_up.set(1)
        self._outages = counter(
            "state_outages_total",
            "Times the shared state stopped answering, per process.",
            registry,
        )

    def predicted(self, predictions: Sequence[Prediction]) -> None:
        """One request was answered."""
        for prediction in predictions:
            ood = {None: "unknown", True: "yes", False: "no"}[prediction.is_ood]
            self._predictions.labels(prediction.label, ood).inc()
            self._confidence.observe(prediction.confidence)
            self._ood_score.observe(prediction.ood_score)

    def stage(self, stage: Stage, seconds: float) -> None:
        """A stage of a request took that long."""
        self._stage.labels(stage).observe(seconds)

    def batched(self, images: int) -> None:
        """So many images went through one inference call."""
        self._batch.observe(images)

    def inside(self, images: int) -> None:
        """So many images wait or are being computed now."""
        self._inside.set(images)

    def shed(self, reason: Shed) -> None:
        """A request was turned away, or given up."""
        self._shed.labels(reason).inc()

    def spared(self, images: int) -> None:
        """So many images were not computed, because nobody waits for them any more."""
        self._spared.inc(images)

    def inference_alive(self, alive: bool) -> None:
        """Whether the last canary came back right and in time."""
        self._alive.set(alive)

    def fell_back(self, fell_back: bool) -> None:
        """Whether inference runs on another device than was asked for."""
        self._fallback.set(fell_back)

    def swapped(self, version: int, seconds: float) -> None:
        """Another version serves."""
        self._version.set(version)
        self._swap_seconds.observe(seconds)
        self._swaps.labels("ok").inc()

    def swap_failed(self, why: SwapFailure) -> None:
        """A version was not taken."""
        self._swaps.labels(why).inc()

    def refusing(self, refuses: bool) -> None:
        """Whether the version that should serve is refused."""
        self._refusing.set(refuses)

    def denied(self, why: Denial) -> None:
        """A request was turned away before its route."""
        self._denied.labels(why).inc()

    def sampled(self, outcome: SampleOutcome, images: int) -> None:
        """That many answered images were chosen for the stream, and came to this."""
        self._samples.labels(outcome).inc(images)

    def received(self, topic: str, outcome: MessageOutcome, messages: int) -> None:
        """The worker dealt with that many messages."""
        self._messages.labels(topic, outcome).inc(messages)

    def labels_joined(self, labels: int) -> None:
        """That many labels found their image."""
        self._joined.inc(labels)

    def label_trouble(self, trouble: LabelTrouble, labels: int) -> None:
        """That many labels were not as they should be."""
        self._label_trouble.labels(trouble).inc(labels)

    def labels_waiting(self, labels: int) -> None:
        """That many labels wait for their image."""
        self._labels_waiting.set(labels)

    def waiting(self, messages: int) -> None:
        """That many messages are unread."""
        self._lag.set(messages)

    def round_ended(self, method: str, outcome: Outcome, seconds: float, images: int) -> None:
        """A round is over."""
        self._rounds.labels(method, outcome).inc()
        self._round_seconds.observe(seconds)
        self._round_images.inc(images)

    def judged(self, marginal_entropy_nats: float, agreement: float, temperature: float) -> None:
        """The guard looked at a candidate."""
        self._entropy.set(marginal_entropy_nats)
        self._agreement.set(agreement)
        self._temperature.set(temperature)

    def estimated(self, accuracy: float) -> None:
        """The accuracy of the version that now serves was estimated without labels."""
        self._accuracy.set(accuracy)

    def drifted(self, signal: SignalName, effect: float, alarm: bool) -> None:
        """A signal of drift is so far from the reference, and is or is no alarm."""
        self._drift.labels(signal).set(effect)
        self._drift_alarm.labels(signal).set(1 if alarm else 0)

    def shadowed(self, outcome: ShadowOutcome) -> None:
        """A chosen live image was answered by a candidate too, or was not."""
        self._shadowed.labels(outcome).inc()

    def shadow_figures(self, tally: Tally) -> None:
        """All service processes together found this of a candidate so far."""
        for name, value in Figures.of(tally).model_dump(include=SHADOW_FIGURES).items():
            self._shadow.labels(name).set(value or 0.0)

    def shadow_decided(self, outcome: TrialOutcome) -> None:
        """A candidate's trial on live images is over."""
        self._trials.labels(outcome).inc()

    def went_back(self) -> None:
        """An earlier version serves again after too many refused rounds."""
        self._returns.inc()

    def checkpointed(self, at_s: float) -> None:
        """A checkpoint was written, at that Unix time."""
        self._checkpoint.set(at_s)

    def checkpoints_refused(self, checkpoints: int) -> None:
        """A worker started, and that many checkpoints could not be read."""
        self._refused_checkpoints.inc(checkpoints)

    def disk_full(self, full: bool) -> None:
        """The worker waits for room on a disk, or goes on."""
        self._disk_full.set(1 if full else 0)

    def state_reached(self, reached: bool) -> None:
        """The shared state went out of reach, or is back."""
        self._state_up.set(1 if reached else 0)
        if not reached:
            self._outages.inc()
