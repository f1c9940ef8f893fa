"""Corruptions are those of ImageNet-C, and the same ones each time."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from adaptsvc.corruption import (
    FUNCTIONS,
    JPEG_QUALITY,
    KINDS,
    NOISE_SIGMA,
    PHOTONS,
    SEVERITIES,
    SIDE,
    Corruption,
    Kind,
    corrupt,
)
from adaptsvc.errors import ConfigError, ImageTooLargeError, NotAnImageError
from adaptsvc.images import ImageLimits
from adaptsvc.types import UInt8

LIMITS = ImageLimits()
SEVERITY = pytest.mark.parametrize("severity", SEVERITIES)
KIND = pytest.mark.parametrize("kind", KINDS)
POINTS = ((0, 0), (21, 29), (33, 50))
# imagecorruptions-imaug 1.1.5 on `drawing()`, at POINTS, severities 1 to 5.
REFERENCE: dict[Kind, list[list[list[int]]]] = {
    "defocus_blur": [
        [[0, 0, 0], [182, 51, 19], [199, 131, 102]],
        [[1, 1, 0], [175, 54, 21], [199, 131, 102]],
        [[7, 7, 0], [167, 58, 24], [199, 131, 102]],
        [[12, 12, 0], [167, 59, 25], [202, 133, 104]],
        [[16, 16, 0], [164, 60, 26], [202, 133, 103]],
    ],
    "brightness": [
        [[25, 25, 25], [255, 20, 0], [225, 148, 116]],
        [[51, 51, 51], [255, 20, 0], [251, 165, 129]],
        [[76, 76, 76], [255, 20, 0], [255, 168, 131]],
        [[102, 102, 102], [255, 20, 0], [255, 168, 131]],
        [[127, 127, 127], [255, 20, 0], [255, 168, 131]],
    ],
    "contrast": [
        [[80, 72, 35], [180, 80, 35], [160, 125, 76]],
        [[93, 84, 41], [168, 90, 41], [153, 124, 72]],
        [[106, 96, 47], [156, 100, 47], [146, 123, 68]],
        [[120, 109, 53], [145, 111, 53], [140, 122, 63]],
        [[126, 115, 56], [139, 116, 56], [136, 121, 61]],
    ],
    "pixelate": [
        [[0, 0, 0], [250, 20, 0], [198, 130, 101]],
        [[0, 0, 0], [250, 20, 0], [202, 130, 103]],
        [[0, 0, 0], [207, 41, 13], [198, 136, 105]],
        [[0, 0, 0], [250, 20, 0], [194, 126, 96]],
        [[0, 0, 0], [186, 53, 21], [198, 134, 104]],
    ],
}


def drawing() -> UInt8:
    """(64, 64, 3): ramps, a red block, and a black corner."""
    y, x = np.mgrid[0:64, 0:64]
    pixels = np.stack([x * 4, y * 4, x * y // 16], axis=-1).astype(np.uint8)
    pixels[20:40, 20:30] = (250, 20, 0)
    pixels[:4, :4] = 0
    return pixels


def encoded(pixels: UInt8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(data: bytes) -> UInt8:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@SEVERITY
@pytest.mark.parametrize("kind", REFERENCE)
def test_pixels_are_those_of_the_reference_within_a_level(kind: Kind, severity: int) -> None:
    worse = FUNCTIONS[kind](drawing(), severity - 1, np.random.default_rng(0))
    found = [worse[point].astype(int).tolist() for point in POINTS]
    assert np.abs(np.array(found) - REFERENCE[kind][severity - 1]).max() <= 1


@SEVERITY
def test_gaussian_noise_has_the_spread_of_its_severity(severity: int) -> None:
    gray = np.full((224, 224, 3), 127, np.uint8)
    worse = FUNCTIONS["gaussian_noise"](gray, severity - 1, np.random.default_rng(0))
    low, high = np.quantile(worse, [0.1587, 0.8413])  # one standard deviation to each side
    assert (high - low) / 255 == pytest.approx(2 * NOISE_SIGMA[severity - 1], rel=0.03)


@SEVERITY
def test_shot_noise_has_the_mean_and_the_variance_of_its_photons(severity: int) -> None:
    gray = np.full((224, 224, 3), 51, np.uint8)  # a fifth of white
    worse = FUNCTIONS["shot_noise"](gray, severity - 1, np.random.default_rng(0)) / 255
    assert worse.mean() == pytest.approx(0.2, abs=0.01)
    assert worse.var() == pytest.approx(0.2 / PHOTONS[severity - 1], rel=0.06)


@SEVERITY
def test_jpeg_compression_sends_the_jpeg_itself(severity: int, png: Callable[..., bytes]) -> None:
    data = png(0, size=(SIDE, SIDE))
    worse = corrupt(data, "a", Corruption("jpeg_compression", severity), LIMITS)
    expected = io.BytesIO()
    Image.fromarray(pixels_of(data)).save(expected, "JPEG", quality=JPEG_QUALITY[severity - 1])
    assert (worse.data, worse.content_type) == (expected.getvalue(), "image/jpeg")


@KIND
def test_a_picture_is_the_same_each_time_and_the_others_do_not_matter(
    kind: Kind, png: Callable[..., bytes]
) -> None:
    corruption = Corruption(kind, 3, seed=7)
    first = corrupt(png(0), "a", corruption, LIMITS)
    corrupt(png(1), "b", corruption, LIMITS)
    assert corrupt(png(0), "a", corruption, LIMITS) == first


@pytest.mark.parametrize("kind", ["gaussian_noise", "shot_noise"])
def test_noise_differs_by_seed_image_id_and_severity(kind: Kind, png: Callable[..., bytes]) -> None:
    made = {
        corrupt(png(0), image_id, Corruption(kind, severity, seed), LIMITS).data
        for image_id, severity, seed in [("a", 3, 0), ("b", 3, 0), ("a", 4, 0), ("a", 3, 1)]
    }
    assert len(made) == 4


def test_numpys_own_random_state_is_left_alone(png: Callable[..., bytes]) -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    corrupt(png(0), "a", Corruption("gaussian_noise", 1), LIMITS)
    assert np.random.random() == expected


@KIND
def test_a_higher_severity_is_farther_from_the_picture(
    kind: Kind, png: Callable[..., bytes]
) -> None:
    whole = png(3, size=(SIDE, SIDE))
    before = pixels_of(whole).astype(float)
    gaps = [
        np.abs(pixels_of(corrupt(whole, "a", Corruption(kind, s), LIMITS).data) - before).mean()
        for s in SEVERITIES
    ]
    assert gaps[0] > 0
    assert gaps == sorted(gaps)


@pytest.mark.parametrize("size", [(48, 40), (1000, 300)])
def test_a_picture_of_any_size_becomes_the_square_the_severities_are_for(
    size: tuple[int, int], png: Callable[..., bytes]
) -> None:
    worse = corrupt(png(0, size=size), "a", Corruption("pixelate", 1), LIMITS)
    assert pixels_of(worse.data).shape == (SIDE, SIDE, 3)
    assert worse.content_type == "image/png"


def test_black_becomes_gray_when_it_is_made_brighter() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert (FUNCTIONS["brightness"](black, 4, np.random.default_rng(0)) == 127).all()


def test_what_is_no_picture_or_too_large_is_refused(png: Callable[..., bytes]) -> None:
    corruption = Corruption("contrast", 1)
    with pytest.raises(NotAnImageError):
        corrupt(b"text", "a", corruption, LIMITS)
    with pytest.raises(ImageTooLargeError):
        corrupt(png(0), "a", corruption, ImageLimits(max_side=10))


@pytest.mark.parametrize(
    ("kind", "severity", "says"),
    [("rain", 1, "'rain'; expected one of gaussian_noise"), ("contrast", 6, "severity 6")],
)
def test_another_kind_or_severity_is_refused(kind: Kind, severity: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Corruption(kind, severity)
