"""What an encoded picture says of itself: format, size, orientation; no pixel is decoded here.

It reads the headers of JPEG, PNG, WebP, GIF and BMP and knows nothing of Pillow, limits or models.
Beside the header it gives the picture's bytes without its metadata (EXIF, ICC, text, animation),
so that a decoder has nothing left to stumble over but the pixels.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from adaptsvc.errors import NotAnImageError

_READ = "JPEG, PNG, WebP, BMP or GIF"
_KINDS = tuple(
    (kind, re.compile(magic, re.DOTALL | re.IGNORECASE))
    for kind, magic in (
        ("a JPEG", rb"\xff\xd8\xff"),
        ("a PNG", rb"\x89PNG"),
        ("a WebP", rb"RIFF....WEBP"),
        ("a GIF", rb"GIF8"),
        ("an AVIF or HEIC", rb"....ftyp(avi|hei|mif|msf)"),
        ("a video or other ISO media file", rb"....ftyp"),
        ("a TIFF", rb"II\*\0|MM\0\*"),
        ("a JPEG 2000", rb"\0\0\0\x0cjP|\xff\x4f\xff\x51"),
        ("a JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL"),
        ("a PDF", rb"%PDF"),
        ("a zip archive", rb"PK"),
        ("gzip", rb"\x1f\x8b"),
        ("SVG, XML or HTML", rb"\s*<"),
        ("a BMP", rb"BM.{4}\0\0\0\0"),
        ("text", rb"[\t\r\n\x20-\x7e]{1,16}"),
    )
)
_PNG_PICTURE = frozenset({b"PLTE", b"tRNS", b"IDAT", b"IEND"})
# Past markers without a length: megabytes of those, or of junk in a GIF, are a second of Python otherwise.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
_GIF_BLOCK = re.compile(rb"[!,;]")
_JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn
_JPEG_METADATA = frozenset({*range(0xE1, 0xF0), 0xFE}) - {0xEE}  # APPn and comments
# Progressive files have about 10; each empty one costs a pass over all pixels, for 10 bytes
# (libjpeg-turbo's LJT-01-004).
_MAX_JPEG_SCANS = 100
_MAX_JPEG_SEGMENTS = (
    10_000  # cameras write some dozens; millions of empty ones are seconds of Python
)


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes of a file say, and the file without its metadata.

    Attributes:
        format: Pillow's name of the format.
        size: (W, H) in pixels as stored, before `orientation` is applied; at least 1 each.
        picture: the encoded picture, fit to decode, without metadata (WebP: as it came).
        orientation: the EXIF tag, 1 to 8; 1 is upright.
    """

    format: str
    size: tuple[int, int]
    picture: bytes
    orientation: int = 1


def read_header(data: bytes) -> ImageHeader:
    """Reads the header of an encoded picture.

    Raises:
        NotAnImageError: not a format we read, or its header is damaged or cut short.
    """
    for magic, read in _READERS:
        if data.startswith(magic):
            try:
                header = read(data)
            except (struct.error, LookupError, ValueError) as exc:
                raise not_an_image(data, f"its header is damaged or cut short: {exc}") from exc
            if min(header.size) < 1:
                raise not_an_image(
                    data, f"its header is damaged or cut short: it gives a size of {header.size}"
                )
            return header
    raise not_an_image(data, "not a format we read")


def _read_jpeg(data: bytes) -> ImageHeader:
    """Keeps the tables, the scans, APP0 (JFIF) and APP14 (Adobe's colour transform)."""
    size, orientation, scans, kept = (0, 0), 1, 0, [data[:2]]
    for number, (marker, segment) in enumerate(_jpeg_segments(data)):
        if number >= _MAX_JPEG_SEGMENTS:
            raise ValueError(f"more than {_MAX_JPEG_SEGMENTS} segments")
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", segment, 5)
            size = (width, height)
        elif marker == 0xE1 and segment[4:10] == b"Exif\0\0":
            orientation = _orientation(segment[10:])
        scans += marker == 0xDA
        if scans > _MAX_JPEG_SCANS:
            raise ValueError(f"more than {_MAX_JPEG_SCANS} scans")
        if marker not in _JPEG_METADATA:
            kept.append(segment)
    return ImageHeader("JPEG", size, b"".join(kept), orientation)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each marker and its bytes, a scan's data with it, up to the end of the image; T.81, B.1."""
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        start, at, marker = found.end() - 2, found.end(), found[1][0]
        if marker == 0xD9:
            yield marker, data[start:at]
            return
        at += int(struct.unpack_from(">H", data, at)[0])
        if marker == 0xDA:
            following = _JPEG_SCAN_END.search(data, at)
            at = following.start() if following else len(data)
        yield marker, data[start:at]


def _read_png(data: bytes) -> ImageHeader:
    """Keeps the first IHDR, PLTE, tRNS, IDAT and IEND; ISO 15948, 5."""
    kind, width, height = struct.unpack_from(">4sII", data, 12)
    if kind != b"IHDR":
        raise ValueError(f"it begins with a chunk {kind!r}, expected IHDR")
    orientation, kept, at = 1, [data[:33]], 33
    while kind != b"IEND" and at + 8 <= len(data):  # a cut file still tells its size
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + int(length)
        if kind in _PNG_PICTURE:
            kept.append(data[at:end])
        elif kind == b"eXIf":
            orientation = _orientation(data[at + 8 : end - 4])
        at = end
    return ImageHeader("PNG", (width, height), b"".join(kept), orientation)


def _read_webp(data: bytes) -> ImageHeader:
    """Reads the canvas size ourselves because Pillow allocates the canvas on opening; RFC 9649."""
    kind = data[12:16]
    if data[8:12] != b"WEBP" or kind not in (b"VP8 ", b"VP8L", b"VP8X"):
        raise ValueError(f"it is a RIFF {data[8:16]!r}, expected WEBP")
    if kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        return ImageHeader("WEBP", (width, height), data)
    if kind == b"VP8L":
        bits = int(struct.unpack_from("<I", data, 21)[0])
        return ImageHeader("WEBP", ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), data)
    size = int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF":
            exif = data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0")
            return ImageHeader("WEBP", size, data, _orientation(exif))
        at += 8 + int(length) + (length & 1)
    return ImageHeader("WEBP", size, data)


def _read_gif(data: bytes) -> ImageHeader:
    """Keeps the screen and its palette, then the first frame's control block and all after it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    screen, control = data[:at], b""
    while (block := _GIF_BLOCK.search(data, at)) and block[0] == b"!":  # an extension
        start, at = block.start(), block.end() + 1
        while data[at]:
            at += 1 + data[at]
        at += 1
        if data[start + 1] == 0xF9 and at - start == 8:
            control = data[start:at]
    if block is None or block[0] == b";":
        raise ValueError("it ends without a frame")
    at = block.start()
    left, top, frame_width, frame_height = struct.unpack_from("<4H", data, at + 1)
    size = max(width, left + frame_width), max(height, top + frame_height)
    return ImageHeader("GIF", size, screen + control + data[at:])


def _read_bmp(data: bytes) -> ImageHeader:
    old = struct.unpack_from("<I", data, 14)[0] == 12  # OS/2 and Windows 2
    width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
    return ImageHeader("BMP", (width, abs(height)), data)


_READERS: tuple[tuple[bytes, Callable[[bytes], ImageHeader]], ...] = (
    (b"\xff\xd8\xff", _read_jpeg),
    (b"\x89PNG\r\n\x1a\n", _read_png),
    (b"RIFF", _read_webp),
    (b"GIF87a", _read_gif),
    (b"GIF89a", _read_gif),
    (b"BM", _read_bmp),
)


def _orientation(exif: bytes) -> int:
    """The orientation tag, 1 to 8, of a TIFF block; 1 where it cannot be read."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2], "")
    if not order:
        return 1
    try:
        start = int(struct.unpack_from(f"{order}I", exif, 4)[0])
        for at in range(start + 2, start + 2 + 12 * _uint16(order, exif, start), 12):
            if _uint16(order, exif, at) == 0x0112:
                value = _uint16(order, exif, at + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _uint16(order: str, data: bytes, at: int) -> int:
    return int(struct.unpack_from(f"{order}H", data, at)[0])


def not_an_image(data: bytes, reason: str) -> NotAnImageError:
    """The error that says what came, why it is refused, and what to send."""
    if not data:
        return NotAnImageError(f"0 bytes came; send one picture as {_READ}")
    kind = next((kind for kind, magic in _KINDS if magic.match(data)), "of a kind unknown to us")
    return NotAnImageError(
        f"{len(data)} bytes came, beginning {data[:8].hex(' ')}, {kind}: {reason}; "
        f"send an intact picture as {_READ}"
    )
