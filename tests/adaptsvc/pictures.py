"""Pictures for the tests of decoding, every one made here, and the two ways to decode them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from adaptsvc.images import ImageLimits, Preprocess, decode, normalise
from adaptsvc.types import Float32, UInt8

LIMITS = ImageLimits()
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
ONE_LEVEL = 1.01 / 255 / min(CLIP_STD)
SQUASH = Preprocess(32, "squash", "bicubic", CLIP_MEAN, CLIP_STD)
ORIENTED = {  # EXIF orientation -> how a camera stores an upright picture
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: upright.transpose(1, 0, 2)[::-1],
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: upright.transpose(1, 0, 2)[:, ::-1],
}


def smooth(width: int, height: int) -> UInt8:
    """A photo-like picture without symmetry, (H, W, 3)."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = (np.sin(7 * x + 3 * y * y), np.cos(9 * y - 4 * x * y), np.sin(5 * x * x + 11 * y))
    return np.asarray(127 + 120 * np.stack(channels, axis=-1), np.uint8)


def encode(picture: UInt8 | Image.Image, kind: str, **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def one_colour(image: Image.Image, kind: str = "PNG", **options: Any) -> tuple[int, ...]:
    """The colour a uniform picture decodes to."""
    pixels = decode(encode(image, kind, **options), SQUASH, LIMITS)
    assert np.ptp(pixels.reshape(3, -1), axis=1).max() == 0
    return tuple(int(value) for value in pixels[:, 0, 0])


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


def with_png_chunk(data: bytes, chunk: bytes) -> bytes:
    return data[:33] + chunk + data[33:]


def with_jpeg_segment(data: bytes, marker: int, payload: bytes) -> bytes:
    return (
        data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload + data[2:]
    )


def by_open_clip(data: bytes, **cfg: Any) -> Float32:
    transform = image_transform_v2(PreprocessCfg(**cfg), is_train=False)
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(transform(image).numpy(), np.float32)


def by_us(data: bytes, **cfg: Any) -> Float32:
    preprocess = Preprocess.from_open_clip({"mean": CLIP_MEAN, "std": CLIP_STD} | cfg)
    return normalise(decode(data, preprocess, LIMITS)[None], preprocess).squeeze(axis=0)


SMALL = {
    "jpeg": encode(smooth(40, 30), "JPEG", exif=exif(6)),
    "progressive": encode(smooth(40, 30), "JPEG", progressive=True),
    "png": encode(smooth(40, 30), "PNG", exif=exif(6)),
    "palette": encode(Image.fromarray(smooth(40, 30)).quantize(8), "PNG", transparency=1),
    "webp": encode(smooth(40, 30), "WEBP", exif=exif(6)),
    "lossless": encode(smooth(40, 30), "WEBP", lossless=True),
    "gif": encode(Image.fromarray(smooth(40, 30)).quantize(8), "GIF", comment=b"hello"),
    "bmp": encode(smooth(40, 30), "BMP"),
}
NAMES = st.sampled_from(sorted(SMALL))
