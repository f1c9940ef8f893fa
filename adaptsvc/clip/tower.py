"""An image tower in torch: which weights it has now, which of them are trained, how pixels become embeddings.

It knows nothing of class names, objectives, versions or streams.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from adaptsvc.adapt.adapter import norm_parameters, trainable_only
from adaptsvc.clip.export import ImageTower, exact
from adaptsvc.clip.load import Clip
from adaptsvc.errors import ModelError
from adaptsvc.types import Float32, Tensors

Trained: TypeAlias = Literal["norm", "last-block", "all"]
# Where open_clip's and timm's towers keep the list of their blocks; the last of it, and what comes after.
BLOCK_LISTS = ("transformer.resblocks", "trunk.blocks", "trunk.stages")
LAST_LAYERS = ("layer4", "trunk.layer4")
MATRIX, LINEAR = "proj", "head.proj.weight"  # (D_in, D), and a layer's (D, D_in)


class Tower:
    """The tower of a CLIP; its parameters are changed in place and its running statistics never.

    Args:
        clip: whose image tower.
    """

    def __init__(self, clip: Clip) -> None:
        self.module = ImageTower(clip.model.visual)
        self.norms = norm_parameters(self.module)
        self._preprocess = clip.preprocess
        self._parameters = dict(self.module.named_parameters())
        self._initial: dict[str, Tensor] = {}
        self.device = next(iter(self._parameters.values())).device
        self._remember(self.norms)
        trainable_only(self.module, [])
        self.module.to(memory_format=torch.channels_last)  # convolutions run 2 to 3 times faster

    def select(self, trained: Trained) -> dict[str, nn.Parameter]:
        """The parameters a choice of `trained` stands for, by name, norms always among them.

        Raises:
            ModelError: the tower's last block is not known.
        """
        chosen = dict(self.norms)
        if trained == "last-block":
            chosen.update({name: self._parameters[name] for name in self._last_block()})
        elif trained == "all":
            chosen.update(self._parameters)
        return chosen

    def train(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Let gradients reach these parameters alone, and remember what they are at the start."""
        self._remember(parameters)
        trainable_only(self.module, list(parameters.values()))

    def load(self, weights: Tensors) -> None:
        """Every weight as it was at the start, but for these.

        Raises:
            ModelError: a name the tower does not have.
        """
        foreign = sorted(set(weights) - set(self._parameters))
        if foreign:
            raise ModelError(
                f"got weights for {foreign[:3]}, which {type(self.module.visual).__name__} does not have; "
                "the version was made from another model"
            )
        self._remember(weights)
        with torch.no_grad():
            for name, initial in self._initial.items():
                value = weights.get(name)
                self._parameters[name].copy_(initial if value is None else torch.from_numpy(value))

    def initial(self, name: str) -> Tensor:
        """A parameter as it was at the start."""
        return self._initial[name] if name in self._initial else self._parameters[name].detach()

    def changed(self) -> Tensors:
        """What is not as it was at the start, norms apart: numpy copies by name."""
        return {
            name: numpy_of(self._parameters[name]).copy()
            for name, initial in self._initial.items()
            if name not in self.norms and not torch.equal(self._parameters[name], initial)
        }

    def norm_values(self) -> Tensors:
        """Every norm parameter: numpy copies by name."""
        return {name: numpy_of(p).copy() for name, p in self.norms.items()}

    def interpolate(self, share: float, names: Collection[str]) -> None:
        """θ = (1 - share) θ₀ + share θ for these parameters, θ₀ as they were at the start: WiSE-FT.

        Reference: Wortsman et al., "Robust Fine-Tuning of Zero-Shot Models", CVPR 2022.
        """
        with torch.no_grad():
            for name in names:
                parameter = self._parameters[name]
                parameter.copy_(torch.lerp(self.initial(name), parameter, share))

    def projection(self, among: Collection[str]) -> Callable[[], Tensor] | None:
        """What gives the linear map to the embedding space, (D_in, D), if it is one of these parameters."""
        if (whole := f"visual.{MATRIX}") in among:
            return lambda: self._parameters[whole]
        if (layer := f"visual.{LINEAR}") in among:
            return lambda: self._parameters[layer].T
        return None

    def scaled(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 to float in [0, 1] on the tower's device."""
        return moved(pixels, self.device).float() / 255

    def standardised(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] to what the tower takes."""
        mean = torch.tensor(self._preprocess.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self._preprocess.std, device=self.device).view(1, 3, 1, 1)
        return ((images - mean) / std).contiguous(memory_format=torch.channels_last)

    def embed(self, pixels: Tensor) -> Tensor:
        """Unit embeddings (N, D) of (N, 3, H, W) uint8, without gradients."""
        with torch.no_grad(), exact():
            embeddings: Tensor = self.module(self.standardised(self.scaled(pixels)))
            return embeddings

    def _remember(self, names: Collection[str]) -> None:
        for name in names:
            if name not in self._initial:
                self._initial[name] = self._parameters[name].detach().clone()

    def _last_block(self) -> list[str]:
        """Names of the last block's parameters and of all that come after it."""
        start = self._last_block_prefix()
        names = list(self._parameters)
        first = next(index for index, name in enumerate(names) if name.startswith(start))
        after = names[first:]
        return after + [
            name for name in names[:first] if name.removeprefix("visual.") in (MATRIX, LINEAR)
        ]

    def _last_block_prefix(self) -> str:
        modules = dict(self.module.named_modules())
        for path in BLOCK_LISTS:
            blocks = modules.get(f"visual.{path}")
            if isinstance(blocks, nn.Sequential | nn.ModuleList) and len(blocks):
                return f"visual.{path}.{len(blocks) - 1}."
        for path in LAST_LAYERS:
            if f"visual.{path}" in modules:
                return f"visual.{path}."
        raise ModelError(
            f"the last block of {type(self.module.visual).__name__} is not known; "
            "set tune.trained to 'norm' or 'all'"
        )


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; a GPU fetches it from pinned memory while this thread goes on.

    The pinned copy lives until the transfer is done: torch's host allocator sees to that.
    """
    if device.type != "cuda" or tensor.device.type == "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def numpy_of(tensor: Tensor) -> Float32:
    """A tensor as a float32 array, sharing memory where it can."""
    array: Float32 = tensor.detach().float().cpu().numpy()
    return array
