"""The augmentation of the UEO paper: random resized crop and horizontal flip, from a given generator.

It knows nothing of files or models.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as transforms
from torchvision.transforms.v2.functional import InterpolationMode

SCALE = (0.5, 1.0)
RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10


def augment(pixels: Tensor, generator: Generator) -> Tensor:
    """Crop and flip each image on its own.

    Args:
        pixels: (N, 3, H, W) uint8.
        generator: the only source of randomness.

    Returns:
        (N, 3, H, W) uint8.
    """
    return torch.stack([_augment_one(image, generator) for image in pixels])


def _augment_one(image: Tensor, generator: Generator) -> Tensor:
    _, height, width = image.shape
    top, left, crop_height, crop_width = _crop_box(height, width, generator)
    out: Tensor = transforms.resized_crop(
        image,
        top,
        left,
        crop_height,
        crop_width,
        [height, width],
        InterpolationMode.BICUBIC,
        antialias=True,
    )
    return out.flip(-1) if torch.rand((), generator=generator) < 0.5 else out


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
