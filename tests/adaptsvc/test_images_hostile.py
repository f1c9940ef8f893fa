"""Claims about pictures nobody should send: too large, damaged, or made to do harm."""

from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFile

from adaptsvc.errors import ConfigError, ImageError, ImageTooLargeError, NotAnImageError
from adaptsvc.images import ImageLimits, decode
from tests.adaptsvc.pictures import (
    LIMITS,
    NAMES,
    SMALL,
    SQUASH,
    encode,
    png_chunk,
    png_header,
    smooth,
    with_jpeg_segment,
    with_png_chunk,
)


class TestCaps:
    @pytest.mark.parametrize(
        ("limits", "what", "value"),
        [
            (ImageLimits(max_bytes=99), "bytes", len(SMALL["png"])),
            (ImageLimits(max_side=39), "side", 40),
            (ImageLimits(max_pixels=1199), "pixels", 1200),
        ],
    )
    def test_a_cap_is_named_with_what_came(
        self, limits: ImageLimits, what: str, value: int
    ) -> None:
        with pytest.raises(ImageTooLargeError) as caught:
            decode(SMALL["png"], SQUASH, limits)
        assert (caught.value.what, caught.value.value) == (what, value)

    @pytest.mark.parametrize("name", sorted(SMALL))
    def test_pictures_at_the_cap_pass_and_one_below_do_not(self, name: str) -> None:
        decode(SMALL[name], SQUASH, ImageLimits(max_pixels=1200, max_side=40))
        with pytest.raises(ImageTooLargeError):
            decode(SMALL[name], SQUASH, ImageLimits(max_pixels=1199))

    def test_bytes_are_counted_before_they_are_read(self) -> None:
        with pytest.raises(ImageTooLargeError, match="101 bytes, at most 100"):
            decode(b"x" * 101, SQUASH, ImageLimits(max_bytes=100))

    @pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (16_000, 16_000)])
    def test_a_huge_size_is_refused_at_the_header(self, width: int, height: int) -> None:
        gif = b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0)
        gif_frame = b"," + struct.pack("<4HB", 0, 0, width, height, 0) + b"\2\0;"
        size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        webp = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + size
        bmp = b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, width, -height, 1, 24, 0) + bytes(20)
        png = png_header(width, height) + png_chunk(b"IEND", b"")
        jpeg = with_jpeg_segment(b"\xff\xd8\xff\xd9", 0xC0, struct.pack(">BHH", 8, height, width))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for data in (gif + gif_frame, webp, bmp, png, jpeg):
                with pytest.raises(ImageTooLargeError):
                    decode(data, SQUASH, LIMITS)
        assert not seen

    def test_a_second_size_in_the_file_does_not_get_past_the_cap(self) -> None:
        second = png_header(40, 1_000_000)[8:]
        data = with_png_chunk(SMALL["png"], second)
        np.testing.assert_array_equal(
            decode(data, SQUASH, LIMITS), decode(SMALL["png"], SQUASH, LIMITS)
        )
        frame = struct.pack(">BHH", 8, 9, 9)
        with pytest.raises(NotAnImageError):
            decode(with_jpeg_segment(SMALL["jpeg"], 0xC0, frame), SQUASH, LIMITS)

    def test_limits_out_of_range_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="max_side is 0"):
            ImageLimits(max_side=0)
        with pytest.raises(ConfigError, match="max_pixels"):
            ImageLimits(max_pixels=100_000_000)


class TestHostileMetadata:
    @pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
    def test_a_png_text_or_profile_bomb_is_not_even_inflated(self, kind: bytes) -> None:
        bomb = png_chunk(kind, b"name\0\0" + zlib.compress(bytes(50_000_000)))
        expected = decode(SMALL["png"], SQUASH, LIMITS)
        pixels = decode(with_png_chunk(SMALL["png"], bomb), SQUASH, LIMITS)
        np.testing.assert_array_equal(pixels, expected)

    def test_an_animation_chunk_that_lies_is_ignored(self) -> None:
        data = with_png_chunk(SMALL["png"], png_chunk(b"acTL", bytes(8)))
        assert decode(data, SQUASH, LIMITS).shape == (3, 32, 32)

    def test_huge_exif_is_skipped(self) -> None:
        data = encode(smooth(40, 30), "JPEG")
        expected = decode(data, SQUASH, LIMITS)
        for _ in range(100):
            data = with_jpeg_segment(
                data, 0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 65_000
            )
        np.testing.assert_array_equal(decode(data, SQUASH, LIMITS), expected)

    def test_a_jpeg_of_thousands_of_scans_is_refused(self) -> None:
        data = SMALL["progressive"]
        end = data.rindex(b"\xff\xd9")
        scan = b"\xff\xda\0\x08\1\1\0\0\0\0"
        with pytest.raises(NotAnImageError, match="more than 100 scans"):
            decode(data[:end] + scan * 1000 + data[end:], SQUASH, LIMITS)


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"", "0 bytes came; send one picture as JPEG"),
            (b"hello, world", "12 bytes came, beginning 68 65 6c 6c 6f 2c 20 77, text"),
            (b"<svg xmlns='x'/>", "SVG, XML or HTML"),
            (b"%PDF-1.7", "a PDF"),
            (b"\0\0\0\x1cftypavif\0\0\0\0", "an AVIF or HEIC"),
            (b"II*\0\x08\0\0\0", "a TIFF"),
            (b"\x7fELF\2\1\1", "of a kind unknown to us"),
            (b"\xff\xd8\xffhello, I am a JPEG", "a JPEG: its header is damaged"),
            (b"RIFF\0\0\0\0WAVEfmt ", "expected WEBP"),
            (b"BM, you know", "its header is damaged"),
            (png_header(0, 5) + png_chunk(b"IEND", b""), "a size of (0, 5)"),
        ],
    )
    def test_the_message_says_what_came_and_what_is_read(self, data: bytes, said: str) -> None:
        with pytest.raises(NotAnImageError) as caught:
            decode(data, SQUASH, LIMITS)
        assert said in str(caught.value)
        assert "JPEG, PNG, WebP, BMP or GIF" in str(caught.value)

    @pytest.mark.parametrize("name", sorted(SMALL))
    @pytest.mark.parametrize("kept", [0.03, 0.1, 0.4, 0.7, 0.9])
    def test_a_file_cut_short_is_not_an_image(self, name: str, kept: float) -> None:
        data = SMALL[name]
        with pytest.raises(NotAnImageError, match="cut short"):
            decode(data[: int(len(data) * kept)], SQUASH, LIMITS)

    def test_pillows_error_is_the_cause(self) -> None:
        with pytest.raises(NotAnImageError, match="truncated") as caught:
            decode(SMALL["jpeg"][:-100], SQUASH, LIMITS)
        assert isinstance(caught.value.__cause__, OSError)

    def test_pillows_leniency_is_left_as_it_was(self) -> None:
        decode(SMALL["jpeg"], SQUASH, LIMITS)
        assert ImageFile.LOAD_TRUNCATED_IMAGES is False

    @settings(max_examples=150, deadline=None)
    @given(name=NAMES, where=st.floats(0, 1))
    def test_cut_anywhere_it_decodes_or_is_refused(self, name: str, where: float) -> None:
        check_decodes_or_is_refused(SMALL[name][: round(where * len(SMALL[name]))])

    @settings(max_examples=300, deadline=None)
    @given(
        name=NAMES,
        flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4),
        head=st.booleans(),
    )
    def test_flipped_anywhere_it_decodes_or_is_refused(
        self, name: str, flips: list[tuple[float, int]], head: bool
    ) -> None:
        data = bytearray(SMALL[name])
        reach = min(60, len(data) - 1) if head else len(data) - 1
        for where, mask in flips:
            data[round(where * reach)] ^= mask
        check_decodes_or_is_refused(bytes(data))

    @settings(max_examples=50, deadline=None)
    @given(magic=st.sampled_from([b"\xff\xd8\xff", b"GIF89a", b"BM", b""]), rest=st.binary())
    def test_random_bytes_are_refused_or_decoded(self, magic: bytes, rest: bytes) -> None:
        check_decodes_or_is_refused(magic + rest)


def check_decodes_or_is_refused(data: bytes) -> None:
    try:
        pixels = decode(data, SQUASH, ImageLimits(max_pixels=1_000_000))
    except ImageError:
        return
    assert pixels.shape == (3, 32, 32)
