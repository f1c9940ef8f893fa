"""One learner: the CLIP in torch, and one round of learning from a window of images to a candidate.

It knows nothing of streams, of which version serves, or of publishing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from adaptsvc.adapt.adapter import Adapter, DualEncoder, StepSettings
from adaptsvc.adapt.ahead import one_ahead
from adaptsvc.adapt.augment import apply_crops, draw_crops
from adaptsvc.adapt.distributed import SINGLE, Ranks
from adaptsvc.adapt.labels import LabeledSample
from adaptsvc.adapt.objective import objective
from adaptsvc.adapt.ueo import sample_weights
from adaptsvc.adapt.window import Sample
from adaptsvc.clip.load import Clip
from adaptsvc.clip.parity import LIMITS, gap
from adaptsvc.clip.prompt import Prompt
from adaptsvc.clip.tower import Tower, moved, numpy_of
from adaptsvc.errors import NonFiniteStepError, ParityError, RanksError
from adaptsvc.sections import LearnSettings
from adaptsvc.serving.encoder import Encoder
from adaptsvc.serving.predictor import logits_of
from adaptsvc.trust.calibration import softmax
from adaptsvc.types import Float32, Task, Tensors, UInt8, WeightTemperature
from adaptsvc.versions.base import Precision as BasePrecision
from adaptsvc.versions.manifest import Method
from adaptsvc.versions.store import Version

log = logging.getLogger(__name__)
Precision: TypeAlias = Literal["off", "bfloat16"]
CHECK_IMAGES = 32
TUNED_HEAD = 1e-4  # a head nearer to what its prompt gives is the prompt's, rounded elsewhere
# Logits so near to each other may change places between two correct runtimes.
TIES: dict[BasePrecision, float] = {"float32": 1e-3, "float16": 0.25}


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a round learned.

    Attributes:
        method: how.
        delta: the norm parameters, by name.
        tower: the tower's other weights that are not the CLIP's own, by name; usually none.
        context: (M, W).
        class_embeddings: (C, D).
        losses: of the last step.
        images: how many images were stepped on.
        labels_used: whether it was learned from labels.
    """

    method: Method
    delta: Tensors
    tower: Tensors
    context: Float32
    class_embeddings: Float32
    losses: dict[str, float]
    images: int
    labels_used: bool = False


class Learner:
    """The CLIP in torch, and the frozen zero-shot answers it is held against.

    Args:
        clip: what learns; its parameters are changed in place.
        prompt: its class names and context.
        encoder: the base model on ONNX Runtime, frozen: three to five times faster than torch.
        ranks: the processes a round is shared by; this one alone by default. All but rank 0 `follow`.
    """

    def __init__(self, clip: Clip, prompt: Prompt, encoder: Encoder, ranks: Ranks = SINGLE) -> None:
        self._ranks = ranks
        self.clip = clip
        self.tower = Tower(clip)
        self._encoder = encoder
        self._take(prompt)

    def work_for(self, task: Task) -> None:
        """Learn to tell other classes apart; every zero-shot answer given so far is void.

        Raises:
            ModelError: the text tower does not take them.
        """
        self._take(Prompt(self.clip, task.classes, task.prompt))

    def zero_shot(
        self, pixels: UInt8, weight_temperature: WeightTemperature
    ) -> tuple[Float32, Float32]:
        """Frozen zero-shot probabilities (N, C) and UEO weights (N,) of images (N, 3, H, W)."""
        probabilities, weights, _ = self.look(pixels, weight_temperature)
        return probabilities, weights

    def look(
        self, pixels: UInt8, weight_temperature: WeightTemperature
    ) -> tuple[Float32, Float32, Float32]:
        """The same, and the frozen unit embeddings (N, D) that it comes from."""
        embeddings = self._encoder.embed(pixels)
        cosines = embeddings @ self.zero_shot_embeddings.T
        scale = self.clip.logit_scale
        weights = sample_weights(torch.from_numpy(cosines), scale, weight_temperature)
        probabilities = softmax(scale * cosines.astype(np.float64)).astype(np.float32)
        return probabilities, numpy_of(weights), embeddings

    def load(self, version: Version, tuned: Tensors | None = None) -> None:
        """Start from a version: its weights, its prompt context, and what labels made of its head.

        Args:
            version: where to start.
            tuned: the weights of its base that are not the CLIP's own, by name.
        """
        self.tower.load({**(tuned or {}), **version.delta})
        context = version.head.context
        with torch.no_grad():
            self._prompt.context.copy_(
                torch.from_numpy(context)
                if version.manifest.parent is not None
                else self._initial_context
            )
            head = torch.from_numpy(version.head.class_embeddings).to(self.tower.device)
            gap = head - self._prompt()
        tuned_head = bool(gap.abs().max() > TUNED_HEAD)
        self._tuned = gap if tuned_head else torch.zeros_like(gap)

    @property
    def ranks(self) -> int:
        """How many processes share a round."""
        return self._ranks.size

    def class_embeddings(self) -> Float32:
        """What the prompt says now: (C, D), unit norm."""
        with torch.no_grad():
            return numpy_of(self._prompt())

    def learn(
        self,
        samples: Sequence[Sample],
        settings: LearnSettings,
        seed: int,
        *,
        between_steps: Callable[[], None],
    ) -> Candidate:
        """One round from the loaded weights.

        Args:
            samples: the window; at least 2.
            settings: of the round.
            seed: of every draw in it.
            between_steps: called before each step; what it raises ends the round.

        Raises:
            NonFiniteStepError: a step gave NaN or Inf.
            RanksError: another rank is gone.
        """
        job = {
            "task": (self._prompt.task.classes, self._prompt.task.prompt),
            "weights": {k: torch.from_numpy(v) for k, v in self._weights().items()},
            "context": self._prompt.context.detach().cpu(),
            "tuned": self._tuned.cpu(),
            "pixels": torch.from_numpy(np.stack([sample.pixels for sample in samples])),
            "sample_weights": torch.tensor([sample.weight for sample in samples]),
            "settings": settings.model_dump(),
            "seed": seed,
        }
        return self._round(self._ranks.broadcast(job), between_steps)

    def _take(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._initial_context = prompt.context.detach().clone()
        with torch.no_grad():
            self.zero_shot_embeddings = numpy_of(prompt())  # (C, D)
        self._tuned = torch.zeros(self.zero_shot_embeddings.shape, device=self.tower.device)

    def follow(self) -> None:
        """Take this rank's share of every round that rank 0 starts, until it says that there are no more."""
        while (job := self._ranks.broadcast(None)) is not None:
            if (task := Task(*job["task"])) != self._prompt.task:
                self.work_for(task)
            self.tower.load({name: numpy_of(value) for name, value in job["weights"].items()})
            with torch.no_grad():
                self._prompt.context.copy_(job["context"])
            self._tuned = job["tuned"].to(self.tower.device)
            try:
                self._round(job, lambda: None)
            except (NonFiniteStepError, RanksError) as exc:
                log.warning("the round ended: %s", exc)

    def dismiss(self) -> None:
        """Tell the ranks that follow that there are no more rounds."""
        dismiss(self._ranks)

    def _round(self, job: dict[str, Any], between_steps: Callable[[], None]) -> Candidate:
        """The same steps on every rank, each on its share of every batch."""
        settings, count = LearnSettings(**job["settings"]), len(job["pixels"])
        generator = Generator().manual_seed(job["seed"])
        batch = min(settings.batch_images, count)
        steps = max(1, math.ceil(settings.passes * count / batch))
        adapter = self._adapter(settings, steps)
        losses: dict[str, float] = {}
        with closing(one_ahead(self._batches(job, batch, steps, generator))) as prepared:
            for images, weights in prepared:
                with self._ranks.together():
                    between_steps()
                losses = adapter.step(images, weights)
        if settings.pull:
            self._pull(settings.pull)
        return self._candidate(settings.objective, losses, steps * batch)

    def _batches(
        self, job: dict[str, Any], batch: int, steps: int, generator: Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's share of every batch: images as the tower takes them, and their weights.

        Crops are drawn for the whole batch, so that they do not depend on how it is shared.
        """
        pixels, weights = job["pixels"], job["sample_weights"]  # (N, 3, H, W), (N,)
        mine = self._ranks.share(batch)
        for index in batches(len(pixels), batch, steps, generator):
            crops = draw_crops(batch, *pixels.shape[2:], generator=generator)[mine]
            images = self.tower.scaled(apply_crops(pixels[index[mine]], crops))
            yield self.tower.standardised(images), moved(weights[index[mine]], self.tower.device)

    def _pull(self, share: float) -> None:
        """Forgetting control: what was learned goes back toward the zero-shot model by a share."""
        self.tower.interpolate(1 - share, self.tower.norms)
        with torch.no_grad():
            self._prompt.context.lerp_(self._initial_context, share)

    def _weights(self) -> Tensors:
        """All that is not the CLIP's own in the tower, and every norm."""
        return {**self.tower.changed(), **self.tower.norm_values()}

    def check_parity(
        self,
        candidate: Candidate,
        encoder: Encoder,
        samples: Sequence[Sample] | Sequence[LabeledSample],
    ) -> None:
        """Refuse a candidate that ONNX Runtime answers otherwise than torch does.

        Raises:
            ParityError: the embeddings are further apart than the base's precision explains
                (adaptsvc.clip.parity), or another class is on top beyond a tie.
        """
        pixels = np.stack([sample.pixels for sample in samples[-CHECK_IMAGES:]])
        expected = numpy_of(self.tower.embed(torch.from_numpy(pixels)))
        found = encoder.embed(pixels)
        apart, precision = gap(expected, found), encoder.base.precision
        limits, tie, scale = LIMITS[precision], TIES[precision], self.clip.logit_scale
        ours = logits_of(expected, candidate.class_embeddings, scale)
        theirs = logits_of(found, candidate.class_embeddings, scale)
        rows = np.arange(len(ours))
        lost = ours.max(axis=1) - ours[rows, theirs.argmax(axis=1)]  # 0 where the top is the same
        others = int((lost > tie).sum())
        if others or not apart.within(limits):
            raise ParityError(
                f"on {len(rows)} images torch and ONNX Runtime ({precision}) differ: {apart} ({limits} are "
                f"allowed), {others} other top classes; the candidate was not published: report the model "
                "with this message"
            )

    def _adapter(self, settings: LearnSettings, steps: int) -> Adapter:
        self.tower.train(self.tower.norms)
        self._prompt.context.requires_grad_(True)
        model = DualEncoder(
            encode=autocast(self.tower.module, settings.autocast, self.tower.device),
            class_embeddings=self._class_embeddings,
            logit_scale=self.clip.logit_scale,
            norms=self.tower.norms,
            context={"context": self._prompt.context},
        )
        rates = StepSettings(
            settings.learning_rate, settings.context_learning_rate, settings.momentum, steps
        )
        return Adapter(model, objective(settings.objective), rates, self._ranks)

    def _class_embeddings(self) -> Tensor:
        """What the prompt says, and what labels have added to it."""
        prompted: Tensor = self._prompt()
        return prompted + self._tuned

    def _candidate(self, method: Method, losses: dict[str, float], images: int) -> Candidate:
        with torch.no_grad():
            embeddings = numpy_of(self._class_embeddings())
        return Candidate(
            method=method,
            delta=self.tower.norm_values(),
            tower=self.tower.changed(),
            context=numpy_of(self._prompt.context).copy(),
            class_embeddings=embeddings,
            losses=losses,
            images=images,
        )


def autocast(
    encode: Callable[[Tensor], Tensor], precision: Precision, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """A tower that computes in less precision, its weights, its embeddings and the loss in float32.

    float16 is not offered: gradients of norms underflow in it without a loss scale.
    """
    if precision == "off":
        return encode

    def encode_in_less(images: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            embeddings = encode(images)
        return F.normalize(embeddings.float(), dim=-1)

    return encode_in_less


def batches(count: int, size: int, steps: int, generator: Generator) -> Iterator[Tensor]:
    """`steps` index batches (size,) over `count` items, each item once before any comes again.

    Example:
        >>> drawn = torch.cat(list(batches(4, 2, 4, Generator().manual_seed(0))))
        >>> sorted(drawn.tolist())
        [0, 0, 1, 1, 2, 2, 3, 3]
    """
    pending = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(pending) < size:
            pending = torch.cat([pending, torch.randperm(count, generator=generator)])
        yield pending[:size]
        pending = pending[size:]


def dismiss(ranks: Ranks) -> None:
    """Tell the ranks that follow that there are no more rounds."""
    ranks.broadcast(None)
    ranks.close()
