import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from anycost.errors import InputError
from anycost.runtime.masks import (
    bounding_box,
    box,
    brush_strokes,
    central_box,
    parse_mask,
    paste,
    random_boxes,
    read_mask,
)

SIDES = st.integers(1, 300)
SEEDS = st.integers(0, 2**32 - 1)


def sound(mask, h, w):
    assert mask.shape == (h, w) and mask.dtype == bool and mask.any() and not mask.all()


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SEEDS, st.floats(0.01, 0.99), st.integers(1, 20))
def test_every_maker_leaves_something_of_both_kinds(h, w, seed, fraction, count):
    makers = [
        lambda: central_box(h, w, fraction),
        lambda: random_boxes(h, w, count, seed),
        lambda: brush_strokes(h, w, seed),
        lambda: brush_strokes(h, w, seed, strokes=(1, 1), vertices=(1, 2), brush=(1, 600)),
    ]
    for maker in makers:
        if h * w == 1:
            with pytest.raises(InputError):
                maker()
        else:
            mask = maker()
            sound(mask, h, w)
            assert np.array_equal(mask, maker())


@settings(max_examples=40, deadline=None)
@given(st.data(), SIDES, SIDES)
def test_box_and_bounding_box_are_inverse(data, h, w):
    x, y = data.draw(st.integers(0, w - 1)), data.draw(st.integers(0, h - 1))
    width, height = data.draw(st.integers(1, w - x)), data.draw(st.integers(1, h - y))
    if width * height == w * h:
        with pytest.raises(InputError):
            box(h, w, (x, y, width, height))
    else:
        mask = box(h, w, (x, y, width, height))
        assert mask.sum() == width * height and bounding_box(mask) == (x, y, width, height)


def test_the_central_box_lies_in_the_middle():
    assert bounding_box(central_box(128, 128)) == (32, 32, 64, 64)
    assert bounding_box(central_box(10, 21, 0.2)) == (8, 4, 4, 2)
    for fraction in (0, 1, -1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            central_box(8, 8, fraction)


@pytest.mark.parametrize(
    "wrong", [(0, 0, 0, 3), (0, 0, 3, 0), (-1, 0, 3, 3), (0, 8, 3, 3), (8, 0, 3, 3), (0, 0, 11, 1), (0, 0, 10, 10)]
)
def test_boxes_that_leave_the_picture_or_nothing_of_it(wrong):
    with pytest.raises(InputError):
        box(10, 10, wrong)


def test_strokes_look_like_strokes():
    shares = [brush_strokes(256, 256, seed).mean() for seed in range(40)]
    assert 0.05 < np.mean(shares) < 0.4 and max(shares) < 0.8
    assert len({brush_strokes(256, 256, seed).tobytes() for seed in range(40)}) == 40
    thin, thick = (brush_strokes(256, 256, 3, brush=(width, width)) for width in (3, 30))
    assert thin.mean() < thick.mean() and not np.any(thin & ~thick)
    with pytest.raises(InputError, match="brush"):
        brush_strokes(64, 64, 0, brush=(9, 3))
    with pytest.raises(InputError, match="seed"):
        brush_strokes(64, 64, -1)


def test_random_masks_do_not_change_from_release_to_release():
    """Boxes only: the outline of a stroke is Pillow's."""
    assert hashlib.sha256(random_boxes(64, 48, 3, 7).tobytes()).hexdigest()[:16] == "2e2b68565cb024b5"
    with pytest.raises(InputError, match="boxes"):
        random_boxes(64, 48, 0, 7)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_masks_of_any_mode(tmp_path, mode):
    expected = box(6, 9, (2, 1, 3, 4))
    white = Image.fromarray(expected.astype(np.uint8) * 255)
    if mode == "I;16":
        image = Image.fromarray(expected.astype(np.uint16) * 65535)
    elif mode in ("LA", "RGBA"):  # white everywhere, transparent where nothing was painted
        image = Image.new(mode, (9, 6), (255,) * len(mode))
        image.putalpha(white)
    else:
        image = white.convert(mode)
    image.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", 6, 9), expected)
    assert np.array_equal(read_mask(tmp_path / "mask.png", 12, 27), expected.repeat(2, 0).repeat(3, 1))
    assert np.array_equal(read_mask((tmp_path / "mask.png").read_bytes(), 6, 9), expected)


def test_masks_that_mark_nothing_or_all(tmp_path):
    for level, reason in ((0, "marks nothing"), (255, "leaves nothing")):
        path = tmp_path / f"{level}.png"
        Image.new("L", (5, 5), level).save(path)
        with pytest.raises(InputError, match=rf"{level}\.png {reason}"):
            read_mask(path, 5, 5)
    with pytest.raises(InputError):
        bounding_box(np.zeros((3, 3), bool))


def test_what_a_person_types(tmp_path):
    path = tmp_path / "box.png"
    Image.fromarray(box(20, 30, (1, 2, 3, 4)).astype(np.uint8) * 255).save(path)
    assert np.array_equal(parse_mask("center", 20, 30), central_box(20, 30))
    assert np.array_equal(parse_mask("box:1,2,3,4", 20, 30), box(20, 30, (1, 2, 3, 4)))
    assert np.array_equal(parse_mask("boxes:3", 20, 30, 5), random_boxes(20, 30, 3, 5))
    assert np.array_equal(parse_mask("strokes", 20, 30, 5), brush_strokes(20, 30, 5))
    assert np.array_equal(parse_mask(str(path), 20, 30), box(20, 30, (1, 2, 3, 4)))
    for wrong in ("box:1,2,3", "box:a,b,c,d", "box", "boxes:", "boxes:1,2", "boxes:0", "", "centre", "box:0,0,99,1"):
        with pytest.raises(InputError):
            parse_mask(wrong, 20, 30)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), SEEDS)
def test_paste_keeps_the_outside_byte_for_byte(h, w, seed):
    state = np.random.RandomState(seed)
    image, filled = state.randint(0, 256, (2, h, w, 3), dtype=np.uint8)
    mask = state.randint(0, 2, (h, w)).astype(bool)
    before = image.copy()
    pasted = paste(image, filled, mask)
    assert pasted.dtype == np.uint8 and np.array_equal(image, before)
    assert np.array_equal(pasted[mask], filled[mask]) and np.array_equal(pasted[~mask], image[~mask])


def test_paste_of_different_sizes_or_types():
    image, mask = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), bool)
    for wrong in (
        (image, image[:3], mask),
        (image, image, mask[:3]),
        (image, image.astype(np.float32), mask),
        (image, image, mask.astype(np.uint8)),
        (image[..., 0], image[..., 0], mask),
    ):
        with pytest.raises(InputError):
            paste(*wrong)
