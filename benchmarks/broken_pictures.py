"""Pictures that nobody should send, and odd ones that are fine: all made here, none stored."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from adaptsvc.types import UInt8

Expected: TypeAlias = Literal["decoded", "refused", "either"]
WIDTH, HEIGHT = 40, 30
LONGEST_EDIT = 24
SIGNATURE, PNG_HEAD = b"\x89PNG\r\n\x1a\n", 33
SVG = (
    b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:1/x.png"/>&x;</svg>'
)


@dataclass(frozen=True, slots=True)
class Case:
    """One file.

    Attributes:
        kind: what is odd about it, for the table.
        name: of this one.
        data: the file.
        expected: what a decoder of JPEG, PNG, WebP, GIF and BMP makes of it; mutations may go either way.
    """

    kind: str
    name: str
    data: bytes
    expected: Expected


def encode(picture: UInt8 | Image.Image, kind: str, **options: Any) -> bytes:
    """A picture as a file."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = WIDTH, height: int = HEIGHT) -> UInt8:
    """(H, W, 3), the same every time."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def whole() -> dict[str, bytes]:
    """One sound file of each form that is read."""
    picture = noise()
    gray, image = picture[..., 0], Image.fromarray(picture)
    palette, alpha = image.quantize(8), image.convert("RGBA")
    alpha.putalpha(Image.fromarray(gray))
    sixteen = Image.fromarray(gray.astype(np.uint16) * 257)
    return {
        "jpeg": encode(picture, "JPEG"),
        "jpeg progressive": encode(picture, "JPEG", progressive=True),
        "jpeg gray": encode(gray, "JPEG"),
        "jpeg cmyk": encode(image.convert("CMYK"), "JPEG"),
        "png": encode(picture, "PNG"),
        "png alpha": encode(alpha, "PNG"),
        "png 16 bit": encode(sixteen, "PNG"),
        "png palette": encode(palette, "PNG", transparency=1),
        "png 1 bit": encode(Image.fromarray(gray).convert("1"), "PNG"),
        "png interlaced": interlaced(),
        "webp": encode(picture, "WEBP"),
        "webp lossless alpha": encode(alpha, "WEBP", lossless=True),
        "gif": encode(palette, "GIF", transparency=1),
        "gif interlaced": encode(palette, "GIF", interlace=True),
        "bmp": encode(picture, "BMP"),
        "bmp palette": encode(palette, "BMP"),
    }


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *, interlace: int = 0, colour: int = 0) -> bytes:
    """A PNG of 8 bits a channel, gray or (6) RGBA, from its compressed rows."""
    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, interlace)
    return SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def interlaced() -> bytes:
    """A gray picture of 8x8 in the seven passes of Adam7."""
    passes = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
    rows = b"".join((b"\0" + bytes(range(width))) * height for width, height in passes)
    return png(8, 8, zlib.compress(rows), interlace=1)


def segment(marker: int, payload: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def cases() -> Iterator[Case]:
    """Every file but the truncated and the mutated."""
    for name, data in whole().items():
        yield Case("sound", name, data, "decoded")
    for make in (_shapes, _metadata, _animations, _polyglots, _foreign, _lying, _bombs):
        yield from make()


def truncated() -> Iterator[Case]:
    """Every sound file, cut before each of its bytes."""
    for name, data in whole().items():
        for kept in range(len(data)):
            yield Case("cut at every byte", f"{name} at {kept}", data[:kept], "either")


def mutated(count: int, seed: int = 0) -> Iterator[Case]:
    """So many sound files with a few random edits each, mostly near the beginning."""
    chance, sound = random.Random(seed), whole()
    names = sorted(sound)
    for number in range(count):
        name = names[number % len(names)]
        data = bytearray(sound[name])
        for _ in range(chance.randint(1, 4)):
            _edit(data, chance, sound[chance.choice(names)])
        yield Case("mutated", f"{name} {number}", bytes(data), "either")


def _edit(data: bytearray, chance: random.Random, other: bytes) -> None:
    """Flip, set, insert, delete, repeat, or put in a piece of another file."""
    reach = len(data) if chance.random() < 0.5 else min(len(data), 64)
    at, length = chance.randrange(reach + 1), chance.randint(1, LONGEST_EDIT)
    end = min(len(data), at + length)
    edit = chance.randrange(6)
    if edit == 0 and at < len(data):
        data[at] ^= 1 << chance.randrange(8)
    elif edit == 1 and at < len(data):
        data[at] = chance.choice((0x00, 0x01, 0x7F, 0x80, 0xFF))
    elif edit == 2:
        data[at:at] = chance.randbytes(length)
    elif edit == 3:
        del data[at:end]
    elif edit == 4:
        data[at:at] = data[at:end]
    else:
        start = chance.randrange(len(other))
        data[at:end] = other[start : start + length]


def _shapes() -> Iterator[Case]:
    for width, height in ((1, 1), (1, 9000), (9000, 1), (3, 2), (16_384, 1)):
        for form in ("JPEG", "PNG", "GIF", "BMP", *(["WEBP"] if width < 16_384 else [])):
            data = encode(noise(width, height), form)
            yield Case("1x1 and 1xN", f"{form} {width}x{height}", data, "decoded")
    for name, data in (
        ("png", png(0, 5, zlib.compress(b""))),
        ("gif", b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\2\0;"),
        ("bmp", b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 0, 5, 1, 24, 0) + bytes(20)),
        ("jpeg", b"\xff\xd8" + segment(0xC0, struct.pack(">BHHB", 8, 0, 0, 1)) + b"\xff\xd9"),
    ):
        yield Case("no pixels", name, data, "refused")


def _metadata() -> Iterator[Case]:
    picture = noise()
    for form in ("JPEG", "PNG", "WEBP"):
        for orientation in range(10):
            tags = Image.Exif()
            tags[0x0112] = orientation
            data = encode(picture, form, exif=tags)
            yield Case("EXIF orientation", f"{form} {orientation}", data, "decoded")
        for name, profile in (("random", random.Random(0).randbytes(3000)), ("one byte", b"x")):
            data = encode(picture, form, icc_profile=profile)
            yield Case("broken ICC profile", f"{form} {name}", data, "decoded")
    jpeg, plain = whole()["jpeg"], whole()["png"]
    exif = b"".join(segment(0xE1, b"Exif\0\0II*\0" + b"\xff" * 65_000) for _ in range(100))
    yield Case("huge metadata", "jpeg, EXIF of 6 MB", jpeg[:2] + exif + jpeg[2:], "decoded")
    for kind in (b"iCCP", b"zTXt", b"eXIf"):
        bomb = chunk(kind, b"name\0\0" + zlib.compress(bytes(200_000_000)))
        data = plain[:PNG_HEAD] + bomb + plain[PNG_HEAD:]
        yield Case("huge metadata", f"png, {kind.decode()} that inflates", data, "decoded")


def _animations() -> Iterator[Case]:
    frames = [Image.fromarray(np.roll(noise(), shift, 0)) for shift in range(200)]
    for form in ("GIF", "WEBP", "PNG"):
        data = encode(frames[0], form, save_all=True, append_images=frames[1:])
        yield Case("200 frames", form, data, "decoded")


def _polyglots() -> Iterator[Case]:
    sound = whole()
    archive = b"PK\3\4" + bytes(26) + b"PK\5\6" + bytes(18)
    script = b"<script>alert(1)</script>"
    yield Case("polyglot", "JPEG and ZIP", sound["jpeg"] + archive, "decoded")
    yield Case("polyglot", "PNG and HTML", sound["png"] + script, "decoded")
    yield Case("polyglot", "GIF and JavaScript", sound["gif"] + b"*/=1;alert(1)", "decoded")
    yield Case("polyglot", "WebP and NUL bytes", sound["webp"] + bytes(5000), "decoded")
    comment = sound["jpeg"][:2] + segment(0xFE, script) + sound["jpeg"][2:]
    yield Case("polyglot", "JPEG with HTML in a comment", comment, "decoded")
    yield Case("polyglot", "HTML and JPEG", script + sound["jpeg"], "refused")


def _foreign() -> Iterator[Case]:
    picture = noise()
    for form in ("TIFF", "ICO", "PPM", "TGA", "JPEG2000", "PCX", "DDS", "PDF", "EPS"):
        yield Case("another format", form, encode(picture, form), "refused")
    for name, data in (
        ("HEIC", b"\0\0\0\x18ftypheic" + bytes(200)),
        ("AVIF", b"\0\0\0\x1cftypavif" + bytes(200)),
        ("SVG that names files and hosts", SVG),
        ("text", b"http://127.0.0.1:1/cat.jpg"),
        ("ZIP", b"PK\3\4" + bytes(200)),
        ("nothing", b""),
        ("NUL bytes", bytes(5000)),
        ("random bytes", random.Random(1).randbytes(5000)),
    ):
        yield Case("no image", name, data, "refused")


def _lying() -> Iterator[Case]:
    sound = whole()
    magics = {"jpeg": b"\xff\xd8\xff", "png": SIGNATURE, "gif": b"GIF89a", "bmp": b"BM"}
    for name, magic in magics.items():
        for other in ("jpeg", "png", "webp", "gif", "bmp"):
            if other != name:
                data = magic + sound[other][len(magic) :]
                yield Case("wrong magic", f"{other} that begins as {name}", data, "refused")
    yield Case(
        "wrong magic", "RIFF that is no WebP", b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "refused"
    )


def _bombs() -> Iterator[Case]:
    for width, height in ((50_000, 50_000), (16_000, 16_000), (2**31 - 1, 1)):
        sides = min(width, 65_535), min(height, 65_535)
        gif = b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0)
        frame = b"," + struct.pack("<4HB", 0, 0, *sides, 0) + b"\2\0;"
        canvas = struct.pack("<I", sides[0] - 1)[:3] + struct.pack("<I", sides[1] - 1)[:3]
        bmp = struct.pack("<IiiHHI", 40, width, -height, 1, 24, 0)
        jpeg = segment(0xC0, struct.pack(">BHHB", 8, sides[1], sides[0], 1))
        for name, data in (
            ("PNG", png(width, height, zlib.compress(bytes(10**6)))),
            ("JPEG", b"\xff\xd8" + jpeg + b"\xff\xd9"),
            ("GIF", gif + frame),
            ("WebP", b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + canvas),
            ("BMP", b"BM" + bytes(12) + bmp + bytes(20)),
        ):
            yield Case("bomb", f"{name} {width}x{height}", data, "refused")


def heavy() -> Iterator[Case]:
    """What costs most of all that is within the default caps of images."""
    side, most = 7000, 10 * 2**20 - 8000
    rows = zlib.compress(bytes((4 * side + 1) * side), 9)
    yield Case(
        "at the cap", "PNG, 49 megapixels with alpha", png(side, side, rows, colour=6), "decoded"
    )
    gray = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 63, 0x10) + b"\0" * 8
    scans = gray[:-2] + scan * 80 + gray[-2:]
    yield Case("at the cap", "JPEG, 49 megapixels in 80 more scans", scans, "either")
    jpeg, gif, plain = whole()["jpeg"], whole()["gif"], whole()["png"]
    lone = b"\xff\x01" * (most // 2)
    yield Case("at the cap", "JPEG, 10 MB of lone markers", jpeg[:2] + lone + jpeg[2:], "decoded")
    empty = b"\xff\xfe\0\2" * (most // 4)
    yield Case(
        "at the cap", "JPEG, 10 MB of empty comments", jpeg[:2] + empty + jpeg[2:], "refused"
    )
    at = 13 + (3 << (gif[10] & 7) + 1)
    yield Case("at the cap", "GIF, 10 MB of junk", gif[:at] + bytes(most) + gif[at:], "decoded")
    blocks = b"!\xfe" + b"\1x" * (most // 2) + b"\0"
    yield Case(
        "at the cap", "GIF, 10 MB of blocks of a byte", gif[:at] + blocks + gif[at:], "decoded"
    )
    chunks = chunk(b"tEXt", b"") * (most // 12)
    tiny = plain[:PNG_HEAD] + chunks + plain[PNG_HEAD:]
    yield Case("at the cap", "PNG, 10 MB of empty chunks", tiny, "decoded")
