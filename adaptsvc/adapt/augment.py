"""The augmentation of the UEO paper: random resized crop and horizontal flip, from a given generator.

It knows nothing of files or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as transforms
from torchvision.transforms.v2.functional import InterpolationMode

SCALE = (0.5, 1.0)
RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Crop:
    """What is drawn for one image: a box in pixels, and whether to mirror what is in it."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def augment(pixels: Tensor, generator: Generator) -> Tensor:
    """Crop and flip each image on its own.

    Args:
        pixels: (N, 3, H, W) uint8.
        generator: the only source of randomness.

    Returns:
        (N, 3, H, W) uint8.
    """
    count, _, height, width = pixels.shape
    return apply_crops(pixels, draw_crops(count, height, width, generator=generator))


def draw_crops(count: int, height: int, width: int, *, generator: Generator) -> list[Crop]:
    """The crops of `count` images (3, height, width): cheap, so that every rank draws a whole batch's."""
    return [
        Crop(
            *_crop_box(height, width, generator),
            flip=bool(torch.rand((), generator=generator) < 0.5),
        )
        for _ in range(count)
    ]


def apply_crops(pixels: Tensor, crops: Sequence[Crop]) -> Tensor:
    """Each image's crop, at the size of the image.

    Args:
        pixels: (N, 3, H, W) uint8; N may be 0.
        crops: N, drawn for images of that size.

    Returns:
        (N, 3, H, W) uint8.
    """
    out = pixels.new_empty(pixels.shape)
    for row, image, crop in zip(out, pixels, crops, strict=True):
        row.copy_(_apply(image, crop))
    return out


def _apply(image: Tensor, crop: Crop) -> Tensor:
    out: Tensor = transforms.resized_crop(
        image,
        crop.top,
        crop.left,
        crop.height,
        crop.width,
        list(image.shape[-2:]),
        InterpolationMode.BICUBIC,
        antialias=True,
    )
    return out.flip(-1) if crop.flip else out


def _crop_box(height: int, width: int, generator: Generator) -> tuple[int, int, int, int]:
    """Area in SCALE of the image, aspect ratio log-uniform in RATIO: (top, left, height, width)."""
    log_ratio = torch.tensor(RATIO).log()
    for _ in range(ATTEMPTS):
        u = torch.rand(4, generator=generator)
        area = height * width * (SCALE[0] + (SCALE[1] - SCALE[0]) * u[0].item())
        ratio = (log_ratio[0] + (log_ratio[1] - log_ratio[0]) * u[1]).exp().item()
        crop_width, crop_height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if crop_width <= width and crop_height <= height:
            top = int(u[2].item() * (height - crop_height + 1))
            left = int(u[3].item() * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    return 0, 0, height, width
