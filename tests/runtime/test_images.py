import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from anycost.errors import InputError
from anycost.runtime.images import MOST_PIXELS, read_image, resize, to_input
from anycost.runtime.latents import as_images

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def two(mode, left, right) -> Image.Image:
    """A picture of two pixels."""
    image = Image.new(mode, (2, 1), left)
    image.putpixel((1, 0), right)
    return image


def pixels(source) -> list[tuple[int, ...]]:
    image = read_image(source)
    assert image.dtype == np.uint8 and image.shape[2] == 3 and image.flags.writeable
    return [tuple(pixel) for pixel in image.reshape(-1, 3).tolist()]


def gray(*levels) -> list[tuple[int, int, int]]:
    return [(level, level, level) for level in levels]


def test_a_path_a_name_bytes_an_image_and_an_array_are_the_same(tmp_path):
    values = np.random.RandomState(0).randint(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(values).save(path)
    for source in (path, str(path), path.read_bytes(), Image.open(path), values):
        assert np.array_equal(read_image(source), values)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (two("1", 0, 1), gray(0, 255)),
        (two("L", 7, 200), gray(7, 200)),
        (two("LA", (0, 128), (90, 255)), gray(127, 90)),
        (two("RGB", RED, BLUE), [RED, BLUE]),
        (two("RGBA", (0, 0, 0, 128), (9, 8, 7, 0)), [(127, 127, 127), WHITE]),
        (two("I;16", 65535, 32768), gray(255, 128)),
        (two("I", 65535, 257), gray(255, 1)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_modes(image, expected):
    data = encoded(image, "TIFF" if image.mode == "I" else "PNG")
    assert pixels(data) == expected and pixels(image) == expected


def test_palettes_and_color_keys_with_transparency():
    image = two("P", 0, 1)
    image.putpalette([*RED, *GREEN])
    assert pixels(encoded(image)) == [RED, GREEN]
    assert pixels(encoded(image, transparency=1)) == [RED, WHITE]
    assert pixels(encoded(image, transparency=bytes([128, 255]))) == [(255, 127, 127), GREEN]
    assert pixels(encoded(image, "GIF", transparency=0)) == [WHITE, GREEN]
    assert pixels(encoded(two("RGB", RED, BLUE), transparency=RED)) == [WHITE, BLUE]
    assert pixels(encoded(two("L", 7, 9), transparency=7)) == gray(255, 9)
    assert read_image(encoded(image, transparency=1), background=0)[0, 1].tolist() == [0, 0, 0]


def test_16_bit_gray_is_scaled_and_monotone():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.round(levels / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        read = read_image(encoded(Image.fromarray(levels), kind))
        assert np.array_equal(read[..., 0], expected) and np.array_equal(read[..., 2], expected)
    big_endian = Image.frombytes("I;16B", (256, 256), levels.astype(">u2").tobytes())
    assert np.array_equal(read_image(big_endian)[..., 1], expected)
    assert np.array_equal(read_image(levels)[..., 0], expected)
    assert np.all(np.diff(expected.ravel().astype(int)) >= 0)
    with pytest.raises(InputError, match="beyond 16 bits"):
        read_image(two("I", 0, 70000))


def test_float():
    assert pixels(two("F", 0.0, 0.5)) == gray(0, 128)
    assert pixels(encoded(two("F", 3.0, 254.6), "TIFF")) == gray(3, 255)
    assert pixels(np.array([[0, 1]], np.float32)) == gray(0, 255)
    assert pixels(np.array([[[0, 0.5, 1]]])) == [(0, 128, 255)]
    for wrong in (-0.5, 1.5, np.nan):
        with pytest.raises(InputError, match=r"0\.\.1"):
            read_image(np.full((2, 2), wrong))


def test_other_color_spaces():
    for mode, color, expected, error in (
        ("CMYK", (0, 255, 255, 0), RED, 0),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0), 0),
        ("YCbCr", (76, 85, 255), RED, 2),
        ("HSV", (85, 255, 255), GREEN, 2),
        ("LAB", (138, 81, 70), RED, 6),  # L 54 % under D50; a and b are signed bytes
    ):
        image = Image.frombytes(mode, (1, 1), bytes(color))
        assert np.abs(read_image(image).astype(int) - expected).max() <= error, mode


def test_cmyk_jpeg_with_adobes_inversion_comes_back():
    image = Image.new("RGB", (16, 16), (200, 100, 50)).convert("CMYK")
    data = encoded(image, "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(read_image(data).astype(int) - (200, 100, 50)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_exif_orientation(orientation, kind):
    """Colors of the corners: stored so that they come out right once the orientation is applied."""
    upright = np.array([[RED, GREEN, BLUE], [WHITE, (0, 0, 0), (255, 255, 0)]], np.uint8).repeat(16, 0).repeat(16, 1)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if kind == "JPEG" else {}
    read = read_image(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options))
    assert read.shape == upright.shape and np.abs(read.astype(int) - upright).max() <= (8 if kind == "JPEG" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_lose_the_picture():
    assert pixels(encoded(Image.new("RGB", (1, 1), RED), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")) == [RED]


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (2, 2), color) for color in (RED, GREEN, BLUE)]
    for kind in ("GIF", "PNG", "TIFF", "WEBP"):
        data = encoded(
            frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {})
        )
        assert pixels(data) == [RED] * 4
    opened = Image.open(io.BytesIO(encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])))
    opened.seek(2)
    assert pixels(opened) == [BLUE] * 4


def header_of(width: int, height: int) -> bytes:
    """A PNG of which only the header is true."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8193, 12000, 60000])
def test_bombs_are_refused_by_their_header_without_pillows_warning(side):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match=f"the {MOST_PIXELS} pixels allowed"):
            read_image(header_of(side, side))


def test_files_that_are_no_pictures(tmp_path):
    def refused(path, reason):
        with pytest.raises(InputError, match=reason) as caught:
            read_image(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)

    def file(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    whole = encoded(Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)))
    refused(tmp_path / "none.png", "does not exist")
    refused(tmp_path, "is a folder")
    refused(file("empty.png", b""), "0 bytes")
    refused(file("text.png", b"I am a text, whatever my name says.\n"), "not a picture")
    refused(file("cut.png", whole[: len(whole) // 2]), "cut off or damaged")
    refused(file("cut.jpg", encoded(Image.open(io.BytesIO(whole)), "JPEG")[:900]), "cut off or damaged")
    refused(file("header.png", whole[:20]), "damaged")
    refused(file("wrong.png", whole[:60] + bytes(50) + whole[110:]), "damaged")
    refused(file("program.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "PostScript")
    refused(file("program.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "PostScript")
    locked = file("locked.png", whole)
    locked.chmod(0)
    try:
        locked.read_bytes()
    except PermissionError:
        refused(locked, "cannot be read")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_damage_anywhere_is_either_read_or_refused(kind):
    state = np.random.RandomState(0)
    whole = encoded(Image.fromarray(state.randint(0, 256, (24, 24, 3), dtype=np.uint8)), kind)
    for _ in range(40):
        data = np.frombuffer(whole, np.uint8).copy()
        data[state.randint(0, min(len(data), state.choice([40, len(data)])), 3)] = state.randint(0, 256, 3)
        try:
            assert read_image(data[: state.randint(1, 2 * len(data))].tobytes()).dtype == np.uint8
        except InputError as error:
            assert "\n" not in str(error)


def test_an_opened_eps_is_refused_before_it_runs(tmp_path):
    (tmp_path / "program.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(InputError, match="program"), Image.open(tmp_path / "program.eps") as image:
        read_image(image)


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((0, 3, 3), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.int32),
        Image.new("RGB", (0, 4)),
        b"",
        b"text",
        "name with \0 null",
        None,
    ],
    ids=["no rows", "channels first", "a batch", "int32", "no width", "nothing", "text", "null", "none"],
)
def test_wrong_sources(source):
    with pytest.raises(InputError):
        read_image(source)


def test_to_input_crops_the_middle_and_keeps_the_range():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 255
    assert np.array_equal(to_input(image, 4), np.ones((1, 3, 4, 4), np.float32))
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    x = to_input(values, 16)
    assert x.dtype == np.float32 and x.min() == -1 and x.max() == 1
    assert np.array_equal(as_images(x)[0], values)  # the way back is exact


def test_to_input_stretches_and_pads():
    image = np.full((4, 8, 3), 255, np.uint8)
    assert np.all(to_input(image, 6, fit="stretch") == 1)
    padded = to_input(image, 8, fit="pad")
    assert np.all(padded[:, :, 2:6] == 1) and np.all(padded[:, :, :2] == 0) and np.all(padded[:, :, 6:] == 0)
    with pytest.raises(InputError, match="crop, stretch or pad"):
        to_input(image, 8, fit="fill")
    with pytest.raises(InputError, match="at least 1"):
        to_input(image, 0, fit="pad")
    with pytest.raises(InputError, match="uint8"):
        to_input(image.astype(np.float32), 8)


def test_resize_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize(stripes, (8, 8)).astype(int) - 128).max() <= 12
    assert resize(stripes, (3, 5)).shape == (3, 5, 3)
    assert np.array_equal(resize(stripes, (64, 64)), stripes)
    with pytest.raises(InputError, match="0x5"):
        resize(stripes, (5, 0))
