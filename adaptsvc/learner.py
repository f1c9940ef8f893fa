"""One learner: the CLIP in torch, and one round of learning from a window of images to a candidate.

It knows nothing of streams, of which version serves, or of publishing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from adaptsvc.adapt.adapter import Adapter, StepSettings, trainable_only, unit
from adaptsvc.adapt.augment import augment
from adaptsvc.adapt.objective import objective
from adaptsvc.adapt.ueo import sample_weights
from adaptsvc.adapt.window import Sample
from adaptsvc.clip.export import swappable
from adaptsvc.clip.load import Clip
from adaptsvc.clip.prompt import Prompt
from adaptsvc.config import LearnSettings
from adaptsvc.errors import ParityError
from adaptsvc.serving.encoder import Encoder
from adaptsvc.serving.predictor import logits_of
from adaptsvc.trust.calibration import softmax
from adaptsvc.types import Float32, Tensors, UInt8
from adaptsvc.versions.store import Version

CHECK_IMAGES = 32
COSINE_LIMIT = 0.9999
ERROR_LIMIT = 1e-4  # a delta that was ignored changes small rounds' embeddings by more than this
TIE = 1e-3  # logits so near to each other may change places between two correct runtimes


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a round learned.

    Attributes:
        delta: the norm parameters, by name.
        context: (M, W).
        class_embeddings: (C, D).
        losses: of the last step.
        images: how many images were stepped on.
    """

    delta: Tensors
    context: Float32
    class_embeddings: Float32
    losses: dict[str, float]
    images: int


class Learner:
    """The CLIP in torch, and the frozen zero-shot answers it is held against.

    Args:
        clip: what learns; its parameters are changed in place.
        prompt: its class names and context.
        encoder: the base model on ONNX Runtime, frozen: three to five times faster than torch.
    """

    def __init__(self, clip: Clip, prompt: Prompt, encoder: Encoder) -> None:
        self._clip = clip
        self._prompt = prompt
        self._encoder = encoder
        self._norms = swappable(clip)
        self._initial_norms = {name: p.detach().clone() for name, p in self._norms.items()}
        self._initial_context = prompt.context.detach().clone()
        self._device = prompt.context.device
        with torch.no_grad():
            self.zero_shot_embeddings = _numpy(prompt())  # (C, D)
        trainable_only(clip.model, [*self._norms.values()])
        clip.model.visual.to(
            memory_format=torch.channels_last
        )  # convolutions run 2 to 3 times faster

    def zero_shot(self, pixels: UInt8, weight_temperature: float) -> tuple[Float32, Float32]:
        """Frozen zero-shot probabilities (N, C) and UEO weights (N,) of images (N, 3, H, W)."""
        cosines = self._encoder.embed(pixels) @ self.zero_shot_embeddings.T
        scale = self._clip.logit_scale
        weights = sample_weights(torch.from_numpy(cosines), scale, weight_temperature)
        return softmax(scale * cosines.astype(np.float64)).astype(np.float32), _numpy(weights)

    def load(self, version: Version) -> None:
        """Start from a version: its norm parameters and its prompt context."""
        with torch.no_grad():
            for name, parameter in self._norms.items():
                value = version.delta.get(name)
                source = self._initial_norms[name] if value is None else torch.from_numpy(value)
                parameter.copy_(source)
            self._prompt.context.copy_(
                torch.from_numpy(version.head.context)
                if version.manifest.parent is not None
                else self._initial_context
            )

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
        """
        generator = Generator().manual_seed(seed)
        batch = min(settings.batch_images, len(samples))
        steps = max(1, math.ceil(settings.passes * len(samples) / batch))
        adapter = self._adapter(settings, steps)
        pixels = torch.from_numpy(np.stack([sample.pixels for sample in samples]))  # (N, 3, H, W)
        weights = torch.tensor([sample.weight for sample in samples])  # (N,)
        losses: dict[str, float] = {}
        for index in batches(len(samples), batch, steps, generator):
            between_steps()
            images = self._normalised(augment(pixels[index], generator))
            losses = adapter.step(images, weights[index].to(self._device))
        return self._candidate(losses, steps * batch)

    def check_parity(
        self, candidate: Candidate, encoder: Encoder, samples: Sequence[Sample]
    ) -> None:
        """Refuse a candidate that ONNX Runtime answers otherwise than torch does.

        Raises:
            ParityError: a cosine under 0.9999, an error over 1e-4, or another top class beyond a tie.
        """
        pixels = np.stack([sample.pixels for sample in samples[-CHECK_IMAGES:]])
        with torch.no_grad():
            expected = _numpy(self._encode(self._normalised(torch.from_numpy(pixels))))
        found = encoder.embed(pixels)
        cosine = float((expected * found).sum(axis=1).min())
        error = float(np.abs(expected - found).max())
        scale = self._clip.logit_scale
        ours = logits_of(expected, candidate.class_embeddings, scale)
        theirs = logits_of(found, candidate.class_embeddings, scale)
        rows = np.arange(len(ours))
        lost = ours.max(axis=1) - ours[rows, theirs.argmax(axis=1)]  # 0 where the top is the same
        if not (cosine > COSINE_LIMIT and error < ERROR_LIMIT and bool((lost <= TIE).all())):
            raise ParityError(
                f"on {len(rows)} images torch and ONNX Runtime differ: smallest cosine {cosine:.6f} "
                f"(above {COSINE_LIMIT} wanted), largest error {error:.1g} (under {ERROR_LIMIT} wanted), "
                f"{int((lost > TIE).sum())} other top classes; the candidate was not published: report "
                "the model with this message"
            )

    def _adapter(self, settings: LearnSettings, steps: int) -> Adapter:
        self._prompt.context.requires_grad_(True)
        return Adapter(
            self._encode,
            self._prompt,
            norms=self._norms,
            context={"context": self._prompt.context},
            logit_scale=self._clip.logit_scale,
            objective=objective(settings.objective),
            settings=StepSettings(
                settings.learning_rate, settings.context_learning_rate, settings.momentum, steps
            ),
        )

    def _encode(self, images: Tensor) -> Tensor:
        return unit(self._clip.model.visual(images))

    def _normalised(self, pixels: Tensor) -> Tensor:
        preprocess = self._clip.preprocess
        mean = torch.tensor(preprocess.mean, device=self._device).view(1, 3, 1, 1)
        std = torch.tensor(preprocess.std, device=self._device).view(1, 3, 1, 1)
        images = (pixels.to(self._device).float() / 255 - mean) / std
        return images.contiguous(memory_format=torch.channels_last)

    def _candidate(self, losses: dict[str, float], images: int) -> Candidate:
        with torch.no_grad():
            embeddings = _numpy(self._prompt())
        return Candidate(
            delta={name: _numpy(p).copy() for name, p in self._norms.items()},
            context=_numpy(self._prompt.context).copy(),
            class_embeddings=embeddings,
            losses=losses,
            images=images,
        )


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


def _numpy(tensor: Tensor) -> Float32:
    array: Float32 = tensor.detach().float().cpu().numpy()
    return array
