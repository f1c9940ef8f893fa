"""Claims about decoding: formats, modes, orientation, parity with open_clip."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from adaptsvc.errors import ConfigError, NotAnImageError
from adaptsvc.images import Preprocess, decode, normalise
from tests.adaptsvc.pictures import (
    CLIP_MEAN,
    CLIP_STD,
    LIMITS,
    ONE_LEVEL,
    ORIENTED,
    SMALL,
    SQUASH,
    by_open_clip,
    by_us,
    encode,
    exif,
    one_colour,
    smooth,
    with_jpeg_segment,
)


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
