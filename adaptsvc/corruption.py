"""Pictures made worse, the same way each time: seven kinds of ImageNet-C at severities 1 to 5.

It knows nothing of streams, models or files. The numbers of ImageNet-C are for 224 pixels, so each picture is
first brought to that size, shorter side and centre, as ImageNet-C did. All but `jpeg_compression` become PNG.
Randomness is drawn from the seed and the image id alone: neither order nor repetition changes a picture.

Written here because the packages that have it (imagecorruptions, imagecorruptions-imaug, corrupt-tta) bring
OpenCV, scikit-image and numba, and draw from numpy's global state. The tests hold values made with
imagecorruptions-imaug 1.1.5.

Reference: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy import ndimage, signal

from adaptsvc.errors import ConfigError
from adaptsvc.images import ImageLimits, Preprocess, decode
from adaptsvc.types import Float64, UInt8

Kind: TypeAlias = Literal[
    "gaussian_noise",
    "shot_noise",
    "defocus_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
SEVERITIES = (1, 2, 3, 4, 5)
SIDE = 224  # what the numbers below are for
SQUARE = Preprocess(SIDE, "shortest", "bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
FASTEST = 1  # of zlib: noise cannot be compressed

NOISE_SIGMA = (0.08, 0.12, 0.18, 0.26, 0.38)  # of values in [0, 1]
PHOTONS = (60, 25, 12, 5, 3)  # at white
BLUR_RADIUS, BLUR_SIGMA = (3, 4, 6, 8, 10), (0.1, 0.5, 0.5, 0.5, 0.5)  # pixels; of the disk's edge
BRIGHTER = (0.1, 0.2, 0.3, 0.4, 0.5)  # added to the value of HSV
CONTRAST_KEPT = (0.4, 0.3, 0.2, 0.1, 0.05)
RESOLUTION_KEPT = (0.6, 0.5, 0.4, 0.3, 0.25)
JPEG_QUALITY = (25, 18, 15, 10, 7)


@dataclass(frozen=True, slots=True)
class Corruption:
    """What is done to every picture.

    Args:
        kind: one of KINDS.
        severity: 1 to 5.
        seed: of the noise, at least 0.

    Raises:
        ConfigError: another kind or severity.
    """

    kind: Kind
    severity: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"got the corruption {self.kind!r}; expected one of {', '.join(KINDS)}"
            )
        if self.severity not in SEVERITIES:
            raise ConfigError(f"got severity {self.severity}; expected 1 to {SEVERITIES[-1]}")


@dataclass(frozen=True, slots=True)
class Corrupted:
    """An encoded picture and its content type."""

    data: bytes
    content_type: str


def corrupt(data: bytes, image_id: str, corruption: Corruption, limits: ImageLimits) -> Corrupted:
    """An encoded picture, corrupted and encoded again.

    Args:
        data: the picture.
        image_id: which one it is; with the seed it decides the noise.
        corruption: what to do.
        limits: of what is decoded.

    Raises:
        ImageError: the bytes are no picture we read, or over a limit.
    """
    pixels = np.ascontiguousarray(decode(data, SQUARE, limits).transpose(1, 2, 0))  # (H, W, 3)
    level = corruption.severity - 1
    if corruption.kind == "jpeg_compression":
        return Corrupted(_encoded(pixels, "JPEG", quality=JPEG_QUALITY[level]), "image/jpeg")
    worse = FUNCTIONS[corruption.kind](pixels, level, generator_of(corruption, image_id))
    return Corrupted(_encoded(worse, "PNG", compress_level=FASTEST), "image/png")


def generator_of(corruption: Corruption, image_id: str) -> Generator:
    """The numbers drawn for one picture."""
    name = f"{corruption.seed}/{corruption.kind}/{corruption.severity}/{image_id}"
    return np.random.default_rng(list(hashlib.sha256(name.encode()).digest()))


# Each takes (H, W, 3) uint8, the severity minus 1, and what to draw from; it returns (H, W, 3) uint8.


def gaussian_noise(pixels: UInt8, level: int, generator: Generator) -> UInt8:
    """x + N(0, σ²)."""
    return _levels(pixels / 255 + generator.normal(0, NOISE_SIGMA[level], pixels.shape))


def shot_noise(pixels: UInt8, level: int, generator: Generator) -> UInt8:
    """Poisson(x · c) / c."""
    return _levels(generator.poisson(pixels / 255 * PHOTONS[level]) / PHOTONS[level])


def defocus_blur(pixels: UInt8, level: int, _generator: Generator) -> UInt8:
    """x convolved with a disk whose edge is softened."""
    kernel = _disk(BLUR_RADIUS[level], BLUR_SIGMA[level])[..., None]  # (K, K, 1)
    around = len(kernel) // 2
    padded = np.pad(pixels / 255, ((around, around), (around, around), (0, 0)), mode="reflect")
    return _levels(signal.fftconvolve(padded, kernel, mode="valid", axes=(0, 1)))


def brightness(pixels: UInt8, level: int, _generator: Generator) -> UInt8:
    """The value of HSV plus c: the largest of the three; the others keep their ratio to it."""
    x = pixels / 255
    value = x.max(axis=-1, keepdims=True)
    brighter = np.minimum(value + BRIGHTER[level], 1)
    ratio = np.divide(x, value, out=np.ones_like(x), where=value > 0)  # black has no hue: gray
    return _levels(ratio * brighter)


def contrast(pixels: UInt8, level: int, _generator: Generator) -> UInt8:
    """(x - mean) · c + mean, the mean of each channel."""
    x = pixels / 255
    mean = x.mean(axis=(0, 1), keepdims=True)
    return _levels((x - mean) * CONTRAST_KEPT[level] + mean)


def pixelate(pixels: UInt8, level: int, _generator: Generator) -> UInt8:
    """A share c of the resolution, enlarged to blocks."""
    height, width = pixels.shape[:2]
    small = int(width * RESOLUTION_KEPT[level]), int(height * RESOLUTION_KEPT[level])
    image = Image.fromarray(pixels).resize(small, Image.Resampling.BOX)
    return np.asarray(image.resize((width, height), Image.Resampling.NEAREST))


FUNCTIONS: Mapping[Kind, Callable[[UInt8, int, Generator], UInt8]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "defocus_blur": defocus_blur,
    "brightness": brightness,
    "contrast": contrast,
    "pixelate": pixelate,
}


def _levels(x: Float64) -> UInt8:
    """[0, 1] to 0 to 255, cut as ImageNet-C cuts."""
    # A value that is a whole level stays one: 0.1 + 0.2 is a little more or less than 0.3.
    return (x.clip(0, 1) * 255 + 1e-9).astype(np.uint8)


def _disk(radius: int, sigma: float) -> Float64:
    """(K, K), its edge softened over 3 pixels, over 5 where it is large.

    As in ImageNet-C it is scaled to a sum of 1 before, not after: where it touches the border, at severity 4
    and 5, pictures become a hundredth or two brighter.
    """
    half, taps = (8, 1) if radius <= 8 else (radius, 2)
    across = np.arange(-half, half + 1)
    disk = (across**2 + across[:, None] ** 2 <= radius**2).astype(np.float64)
    disk /= disk.sum()
    edge = np.exp(-(np.arange(-taps, taps + 1) ** 2) / (2 * sigma**2))
    edge /= edge.sum()
    for axis in (0, 1):
        disk = ndimage.convolve1d(disk, edge, axis=axis, mode="mirror")
    return disk


def _encoded(pixels: UInt8, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()
