"""Claims about decoding; every picture is made here."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageFile

from adaptsvc.errors import ConfigError, ImageError, ImageTooLargeError, NotAnImageError
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


class TestFormats:
    @pytest.mark.parametrize("name", sorted(SMALL))
    def test_every_format_becomes_uint8_channels_first_at_model_size(self, name: str) -> None:
        pixels = decode(SMALL[name], SQUASH, LIMITS)
        assert (pixels.shape, pixels.dtype) == ((3, 32, 32), np.dtype(np.uint8))
        assert pixels.flags.c_contiguous

    @pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF", "PPM", "ICO"])
    def test_only_formats_on_the_list_are_read(self, kind: str) -> None:
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(smooth(32, 32), kind, **options)
        if kind in ("PNG", "BMP", "WEBP"):
            expected = smooth(32, 32).transpose(2, 0, 1)
            np.testing.assert_array_equal(decode(data, SQUASH, LIMITS), expected)
        else:
            with pytest.raises(NotAnImageError, match="not a format we read"):
                decode(data, SQUASH, LIMITS)

    def test_the_first_gif_frame_is_read_past_comments_and_control_blocks(self) -> None:
        red, blue = (Image.new("P", (9, 9), 0), Image.new("P", (9, 9), 1))
        for frame in (red, blue):
            frame.putpalette([255, 0, 0, 0, 0, 255])
        options = {"save_all": True, "append_images": [blue], "comment": b"x" * 999}
        assert one_colour(red, "GIF", **options) == (255, 0, 0)

    def test_what_follows_the_end_of_a_jpeg_is_ignored(self) -> None:
        data = SMALL["progressive"]
        video = b"\xff\xda\0\4\0\0" * 500  # motion photos append an MP4, any bytes may be in it
        expected = decode(data, SQUASH, LIMITS)
        np.testing.assert_array_equal(decode(data + video, SQUASH, LIMITS), expected)


class TestModes:
    @pytest.mark.parametrize(
        ("mode", "colour", "expected"),
        [
            ("L", 77, (77, 77, 77)),
            ("1", 1, (255, 255, 255)),
            ("1", 0, (0, 0, 0)),
            ("RGB", (1, 2, 3), (1, 2, 3)),
            ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
            ("RGBA", (100, 0, 200, 51), (224, 204, 244)),
            ("LA", (0, 51), (204, 204, 204)),
            ("LA", (9, 255), (9, 9, 9)),
        ],
    )
    def test_alpha_is_blended_on_white_and_gray_repeated(
        self, mode: str, colour: Any, expected: tuple[int, ...]
    ) -> None:
        assert one_colour(Image.new(mode, (9, 9), colour)) == expected

    @pytest.mark.parametrize(
        ("value", "expected"),
        [(0, 0), (128, 0), (129, 1), (385, 1), (386, 2), (257, 1), (25_700, 100), (65_535, 255)],
    )
    def test_16_bit_gray_is_scaled_not_clipped(self, value: int, expected: int) -> None:
        image = Image.fromarray(np.full((9, 9), value, np.uint16))
        assert one_colour(image) == (expected,) * 3

    @pytest.mark.parametrize("kind", ["PNG", "GIF"])
    def test_a_transparent_palette_entry_turns_white(self, kind: str) -> None:
        image = Image.new("P", (9, 9), 1)
        image.putpalette([0, 0, 0, 0, 200, 0])
        assert one_colour(image, kind) == (0, 200, 0)
        assert one_colour(image, kind, transparency=1) == (255, 255, 255)

    def test_palette_entries_may_be_half_transparent(self) -> None:
        image = Image.new("P", (9, 9), 1)
        image.putpalette([0, 0, 0, 0, 200, 0])
        assert one_colour(image, transparency=bytes([255, 51])) == (204, 244, 204)

    def test_a_transparent_colour_turns_white(self) -> None:
        image = Image.new("RGB", (9, 9), (5, 6, 7))
        assert one_colour(image, transparency=(5, 6, 7)) == (255, 255, 255)

    @pytest.mark.parametrize(("ink", "shade"), [((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0)])
    def test_cmyk_is_read_the_way_adobe_stores_it(
        self, ink: tuple[int, int, int, int], shade: int
    ) -> None:
        image = Image.new("CMYK", (16, 16), ink)
        data = encode(image, "JPEG")
        assert b"Adobe" in data
        assert one_colour(image, "JPEG") == (shade,) * 3

    def test_transparency_of_a_webp_is_blended_on_white(self) -> None:
        image = Image.new("RGBA", (16, 16), (0, 0, 0, 51))
        assert one_colour(image, "WEBP", lossless=True) == (204, 204, 204)


class TestOrientation:
    @pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_the_stored_picture_is_turned_upright(self, orientation: int, mode: str) -> None:
        upright = smooth(75, 50)
        preprocess = Preprocess(32, mode, "bicubic", CLIP_MEAN, CLIP_STD)  # type: ignore[arg-type]
        stored = np.ascontiguousarray(ORIENTED[orientation](upright))
        expected = decode(encode(upright, "PNG"), preprocess, LIMITS)
        pixels = decode(encode(stored, "PNG", exif=exif(orientation)), preprocess, LIMITS)
        assert np.abs(pixels.astype(int) - expected).max() <= 1

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_turning_and_drafting_a_jpeg_agree(self, orientation: int) -> None:
        upright = smooth(601, 403)
        stored = np.ascontiguousarray(ORIENTED[orientation](upright))
        data = encode(stored, "JPEG", quality=95, exif=exif(orientation))
        expected = by_open_clip(encode(upright, "PNG"), size=32)
        assert np.abs(by_us(data, size=32) - expected).mean() < 1e-2

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_every_format_with_exif_is_turned(self, kind: str) -> None:
        left_black = np.full((32, 64, 3), 255, np.uint8)
        left_black[:, :32] = 0
        pixels = decode(encode(left_black, kind, exif=exif(6)), SQUASH, LIMITS)
        assert pixels[:, :14].max() < 20  # a quarter turn clockwise: the black half is on top
        assert pixels[:, 18:].min() > 235

    @pytest.mark.parametrize(
        "block",
        [
            b"",
            b"II*\0",
            b"XX*\0\x08\0\0\0",
            b"II*\0\xff\xff\xff\xff",
            b"II*\0\x08\0\0\0\xff\xff",
            b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x63\0\0",
        ],
    )
    def test_exif_that_makes_no_sense_means_upright(self, block: bytes) -> None:
        data = encode(smooth(40, 30), "JPEG")
        expected = decode(data, SQUASH, LIMITS)
        changed = with_jpeg_segment(data, 0xE1, b"Exif\0\0" + block)
        np.testing.assert_array_equal(decode(changed, SQUASH, LIMITS), expected)


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
        decodes_or_is_refused(SMALL[name][: round(where * len(SMALL[name]))])

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
        decodes_or_is_refused(bytes(data))

    @settings(max_examples=50, deadline=None)
    @given(magic=st.sampled_from([b"\xff\xd8\xff", b"GIF89a", b"BM", b""]), rest=st.binary())
    def test_random_bytes_are_refused_or_decoded(self, magic: bytes, rest: bytes) -> None:
        decodes_or_is_refused(magic + rest)


def decodes_or_is_refused(data: bytes) -> None:
    try:
        pixels = decode(data, SQUASH, ImageLimits(max_pixels=1_000_000))
    except ImageError:
        return
    assert pixels.shape == (3, 32, 32)


class TestParity:
    @pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
    @pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
    @pytest.mark.parametrize(
        ("width", "height"), [(301, 200), (200, 301), (75, 80), (64, 64), (50, 31), (501, 37)]
    )
    def test_equal_to_open_clip_within_one_level(
        self, width: int, height: int, mode: str, interpolation: str
    ) -> None:
        data = encode(smooth(width, height), "PNG")
        cfg = {"size": 64, "resize_mode": mode, "interpolation": interpolation, "fill_color": 40}
        difference = np.abs(by_us(data, **cfg) - by_open_clip(data, **cfg))
        assert difference.max() <= ONE_LEVEL
        assert difference.mean() < 1e-3

    @pytest.mark.parametrize("mode", ["L", "RGB"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_small_jpegs_are_not_drafted(self, mode: str, progressive: bool) -> None:
        image = Image.fromarray(smooth(335, 224)).convert(mode)
        data = encode(image, "JPEG", quality=90, progressive=progressive)
        difference = np.abs(by_us(data, size=64) - by_open_clip(data, size=64))
        assert difference.max() <= ONE_LEVEL

    @pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
    @pytest.mark.parametrize("subsampling", [0, 2])
    def test_large_jpegs_are_drafted_and_stay_close(
        self, subsampling: int, mode: Literal["shortest"]
    ) -> None:
        noise = np.random.default_rng(0).normal(0, 12, (1203, 1601, 1))
        pixels = (smooth(1601, 1203) + noise).clip(0, 255).astype(np.uint8)
        data = encode(pixels, "JPEG", quality=90, subsampling=subsampling)
        cfg = {"size": 112, "resize_mode": mode}
        difference = np.abs(by_us(data, **cfg) - by_open_clip(data, **cfg))
        assert 0 < difference.mean() < 1e-2
        assert difference.max() < 0.2

    def test_extreme_shapes_are_resized_too(self) -> None:
        data = encode(smooth(9000, 2), "PNG")
        for mode in ("shortest", "squash", "longest"):
            assert by_us(data, size=32, resize_mode=mode).shape == (3, 32, 32)


class TestNormalise:
    def test_equal_to_torch(self) -> None:
        batch = np.random.default_rng(0).integers(0, 256, (5, 3, 7, 6), dtype=np.uint8)
        mean, std = (torch.tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
        expected = (torch.from_numpy(batch).float() / 255 - mean) / std
        result = normalise(batch, SQUASH)
        assert (result.dtype, result.shape) == (np.dtype(np.float32), (5, 3, 7, 6))
        np.testing.assert_allclose(result, expected.numpy(), atol=2e-6)

    def test_an_empty_batch_stays_empty(self) -> None:
        assert normalise(np.zeros((0, 3, 4, 4), np.uint8), SQUASH).shape == (0, 3, 4, 4)


class TestPreprocess:
    def test_json_gives_back_the_same(self) -> None:
        assert Preprocess.from_json(SQUASH.to_json()) == SQUASH

    @pytest.mark.parametrize("size", [64, (64, 64), [64, 64], [64]])
    def test_open_clip_sizes_are_read(self, size: Any) -> None:
        cfg = {"size": size, "mode": "RGB", "mean": 0.5, "std": CLIP_STD, "fill_color": None}
        expected = Preprocess(64, "shortest", "bicubic", (0.5, 0.5, 0.5), CLIP_STD)
        assert Preprocess.from_open_clip(cfg) == expected

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("size", [224, 336], r"size is \[224, 336\]"),
            ("size", 0, "size is 0"),
            ("mode", "L", "mode is 'L'; expected 'RGB'"),
            ("interpolation", "random", "interpolation is 'random'"),
            ("resize_mode", "fit", "resize_mode is 'fit'"),
            ("mean", [0.5, 0.5], "mean is"),
            ("mean", None, "mean as well"),
            ("std", [0.5, 0.0, 0.5], "std is"),
            ("std", "wide", "std is 'wide'"),
            ("fill_color", 256, "fill_color is 256"),
            ("crop_pct", 0.9, "crop_pct"),
        ],
    )
    def test_what_we_cannot_do_is_refused_by_name(self, key: str, value: Any, said: str) -> None:
        cfg = {"size": 224, "mean": CLIP_MEAN, "std": CLIP_STD} | {key: value}
        with pytest.raises(ConfigError, match=said):
            Preprocess.from_open_clip(cfg)
