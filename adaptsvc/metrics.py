"""What is told to be counted. It knows nothing of where the numbers come from, nor of who keeps them.

`adaptsvc.prometheus` keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from adaptsvc.drift_summary import SignalName
from adaptsvc.errors import Code
from adaptsvc.shadow_record import TrialOutcome
from adaptsvc.trust.shadow import Tally
from adaptsvc.types import Prediction

Stage: TypeAlias = Literal["queue", "decode", "infer", "postprocess"]
Shed: TypeAlias = Literal["queue", "deadline", "gone", "connections", "slow_body"]
Outcome: TypeAlias = Literal[
    "promoted", "candidate", "refused", "failed", "conflict", "stopped", "skipped"
]
MessageOutcome: TypeAlias = Literal["learned", "dead_letter", "duplicate"]
LabelTrouble: TypeAlias = Literal[
    "again", "contradicts", "unknown_class", "expired", "crowded_out", "image_gone", "bad_image"
]
SwapFailure: TypeAlias = Code | Literal["model", "pointer", "state"]
Denial: TypeAlias = Literal[
    "no_key", "bad_key", "role", "not_loopback", "foreign_page", "too_large", "closed"
]
ShadowOutcome: TypeAlias = Literal["agreed", "differed", "dropped", "failed"]
SampleOutcome: TypeAlias = Literal["published", "over_cap", "queue_full", "log_refused", "stopping"]


class Observer:
    """Told what happens; does nothing."""

    def predicted(self, predictions: Sequence[Prediction]) -> None:
        """One request was answered."""

    def stage(self, stage: Stage, seconds: float) -> None:
        """A stage of a request took that long."""

    def batched(self, images: int) -> None:
        """So many images went through one inference call."""

    def inside(self, images: int) -> None:
        """So many images wait or are being computed now."""

    def shed(self, reason: Shed) -> None:
        """A request was turned away, or given up."""

    def spared(self, images: int) -> None:
        """So many images were not computed, because nobody waits for them any more."""

    def inference_alive(self, alive: bool) -> None:
        """Whether the last canary came back right and in time."""

    def fell_back(self, fell_back: bool) -> None:
        """Whether inference runs on another device than was asked for."""

    def swapped(self, version: int, seconds: float) -> None:
        """Another version serves."""

    def swap_failed(self, why: SwapFailure) -> None:
        """A version was not taken."""

    def refusing(self, refuses: bool) -> None:
        """Whether the version that should serve is refused."""

    def denied(self, why: Denial) -> None:
        """A request was turned away before its route."""

    def sampled(self, outcome: SampleOutcome, images: int) -> None:
        """That many answered images were chosen for the stream, and came to this."""

    def received(self, topic: str, outcome: MessageOutcome, messages: int) -> None:
        """The worker dealt with that many messages."""

    def labels_joined(self, labels: int) -> None:
        """That many labels found their image."""

    def label_trouble(self, trouble: LabelTrouble, labels: int) -> None:
        """That many labels were not as they should be."""

    def labels_waiting(self, labels: int) -> None:
        """That many labels wait for their image."""

    def waiting(self, messages: int) -> None:
        """That many messages are unread."""

    def round_ended(self, method: str, outcome: Outcome, seconds: float, images: int) -> None:
        """A round is over."""

    def judged(self, marginal_entropy_nats: float, agreement: float, temperature: float) -> None:
        """The guard looked at a candidate."""

    def estimated(self, accuracy: float) -> None:
        """The accuracy of the version that now serves was estimated without labels."""

    def drifted(self, signal: SignalName, effect: float, alarm: bool) -> None:
        """A signal of drift is so far from the reference, and is or is no alarm."""

    def shadowed(self, outcome: ShadowOutcome) -> None:
        """A chosen live image was answered by a candidate too, or was not."""

    def shadow_figures(self, tally: Tally) -> None:
        """All service processes together found this of a candidate so far."""

    def shadow_decided(self, outcome: TrialOutcome) -> None:
        """A candidate's trial on live images is over."""

    def went_back(self) -> None:
        """An earlier version serves again after too many refused rounds."""

    def checkpointed(self, at_s: float) -> None:
        """A checkpoint was written, at that Unix time."""

    def checkpoints_refused(self, checkpoints: int) -> None:
        """A worker started, and that many checkpoints could not be read."""

    def disk_full(self, full: bool) -> None:
        """The worker waits for room on a disk, or goes on."""

    def state_reached(self, reached: bool) -> None:
        """The shared state went out of reach, or is back."""
