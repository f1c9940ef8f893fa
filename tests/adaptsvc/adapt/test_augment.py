"""Random resized crop and flip: shape, limits, and the generator as the only source of chance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from adaptsvc.adapt.augment import RATIO, SCALE, _crop_box, apply_crops, augment, draw_crops

SIDES = st.integers(8, 300)
SEEDS = st.integers(0, 2**31)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def pictures(images: int = 4, height: int = 16, width: int = 16) -> Tensor:
    return torch.randint(0, 256, (images, 3, height, width), generator=generator(9)).to(torch.uint8)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20), (1, 1)])
def test_shape_and_type_stay(height: int, width: int) -> None:
    pixels = pictures(3, height, width)
    out = augment(pixels, generator())
    assert out.shape == pixels.shape
    assert out.dtype == torch.uint8


def test_same_generator_state_gives_the_same_bits_and_another_seed_others() -> None:
    pixels = pictures()
    assert torch.equal(augment(pixels, generator(1)), augment(pixels, generator(1)))
    assert not torch.equal(augment(pixels, generator(1)), augment(pixels, generator(2)))


def test_global_random_state_is_neither_read_nor_moved() -> None:
    before = torch.get_rng_state()
    first = augment(pictures(), generator())
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        assert torch.equal(augment(pictures(), generator()), first)


def test_input_is_not_changed() -> None:
    pixels = pictures()
    before = pixels.clone()
    augment(pixels, generator())
    assert torch.equal(pixels, before)


def test_images_of_a_batch_are_augmented_each_on_its_own() -> None:
    same = pictures(1).expand(8, -1, -1, -1)
    out = augment(same, generator())
    assert len({image.numpy().tobytes() for image in out}) > 4


def test_a_whole_image_crop_gives_the_image_or_its_mirror_image() -> None:
    """So narrow a picture admits no crop of half its area; what is left is the flip."""
    pixels = pictures(16, height=2, width=64)
    out = augment(pixels, generator())
    kept = [torch.equal(after, before) for after, before in zip(out, pixels, strict=True)]
    flipped = [torch.equal(after.flip(-1), b) for after, b in zip(out, pixels, strict=True)]
    assert all(one != other for one, other in zip(kept, flipped, strict=True))
    assert 0 < sum(flipped) < 16


def test_a_uniform_picture_stays_itself() -> None:
    grey = torch.full((4, 3, 16, 16), 131, dtype=torch.uint8)
    assert torch.equal(augment(grey, generator()), grey)


@pytest.mark.parametrize("cut", [0, 2, 5])
def test_parts_of_a_batch_become_what_the_batch_becomes(cut: int) -> None:
    pixels = pictures(5)
    crops = draw_crops(5, 16, 16, generator=generator())
    parts = [apply_crops(pixels[:cut], crops[:cut]), apply_crops(pixels[cut:], crops[cut:])]
    assert torch.equal(torch.cat(parts), augment(pixels, generator()))


def test_drawing_moves_the_generator_and_applying_does_not() -> None:
    chance = generator()
    crops = draw_crops(4, 16, 16, generator=chance)
    assert draw_crops(4, 16, 16, generator=chance) != crops
    pixels = pictures()
    assert torch.equal(apply_crops(pixels, crops), apply_crops(pixels, crops))


def test_as_many_crops_as_images_are_wanted() -> None:
    with pytest.raises(ValueError, match="shorter"):
        apply_crops(pictures(3), draw_crops(2, 16, 16, generator=generator()))


@settings(deadline=None)
@given(height=SIDES, width=SIDES, seed=SEEDS)
def test_crop_box_lies_inside_the_image(height: int, width: int, seed: int) -> None:
    top, left, crop_height, crop_width = _crop_box(height, width, generator(seed))
    assert 0 <= top <= top + crop_height <= height
    assert 0 <= left <= left + crop_width <= width


@settings(deadline=None)
@given(side=SIDES, seed=SEEDS)
def test_crop_area_and_ratio_are_within_their_limits(side: int, seed: int) -> None:
    """Rounding moves a side of the crop by half a pixel at most."""
    _, _, crop_height, crop_width = _crop_box(side, side, generator(seed))
    largest = (crop_height + 0.5) * (crop_width + 0.5)
    assert largest >= SCALE[0] * side * side
    assert (crop_height - 0.5) * (crop_width - 0.5) <= SCALE[1] * side * side
    assert (crop_width + 0.5) / (crop_height - 0.5) >= RATIO[0]
    assert (crop_width - 0.5) / (crop_height + 0.5) <= RATIO[1]


def test_crops_reach_both_ends_of_the_area_and_every_side_of_the_image() -> None:
    chance = generator()
    boxes = [_crop_box(100, 100, chance) for _ in range(500)]
    areas = [height * width / 100**2 for _, _, height, width in boxes]
    assert min(areas) < 0.52
    assert max(areas) > 0.9
    assert min(top for top, _, _, _ in boxes) == 0 == min(left for _, left, _, _ in boxes)
    assert max(top + height for top, _, height, _ in boxes) == 100
    assert max(left + width for _, left, _, width in boxes) == 100
