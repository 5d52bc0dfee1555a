"""Reading pictures of any kind as a person sees them, and fitting them to a network's input.

The way back, from a network's output to pictures, is `anycost.runtime.latents.as_images`.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from anycost.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
Source = str | os.PathLike[str] | bytes | Image.Image | Array

MOST_PIXELS = 1 << 26  # 67 megapixels, 200 MB as RGB; below Pillow's own limit, so that ours is the one people meet
# Formats that only hold pixels. EPS is a program (Pillow runs Ghostscript on it), WMF is drawn by the system.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA", "QOI")
PROGRAMS = {"EPS", "WMF", "PDF"}  # Pillow's names of formats that are refused even as an opened image
_POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6", b"%PDF")
_FIX = "open it in an image editor and save it as PNG"
_filters = threading.Lock()  # warnings.catch_warnings changes the whole process


def read_image(source: Source, *, background: int = 255) -> Array:
    """A file, its bytes, a Pillow image or an array -> uint8 [H, W, 3], RGB in 0..255, as a person sees it.

    * EXIF orientation is applied; of an animation the first frame is taken (of an opened image the current one).
    * Transparency, also of palettes and colour keys, is composited on gray ``background`` 0..255: white by default.
    * 16-bit gray ("I;16", "I") maps 0..65535 to 0..255, rounded, not clipped.
    * Floating point ("F" and arrays) is 0..1; "F" images above 1 are taken for 0..255.
    * CMYK, YCbCr, LAB and HSV are converted without colour profiles.
    * Arrays are [H, W], or [H, W, C] with C = 1, 2 (gray + alpha), 3 or 4 (RGBA); uint8, uint16 (0..65535) or float.

    Raises InputError, with the file's name, for what is missing, unreadable, empty, no picture, damaged, a program
    (EPS), has a side of 0 or more than MOST_PIXELS pixels; the last is checked before anything is decoded.
    """
    if isinstance(source, np.ndarray):
        return _flat(_from_array(source), background)
    if isinstance(source, Image.Image):
        return _decode(source, "the image", background)
    if isinstance(source, bytes | bytearray | memoryview):
        return _read(io.BytesIO(source), len(source), "the data", background)
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"a {type(source).__name__} is no picture: give a path, bytes, a Pillow image or an array")
    path = Path(source)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder: give the name of a picture in it")
        size = path.stat().st_size
        with path.open("rb") as file:
            return _read(file, size, str(path), background)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the name") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _read(file: Any, size: int, name: str, background: int) -> Array:
    if size == 0:
        raise InputError(f"{name} has 0 bytes: the copy or the download failed, fetch it again")
    if file.read(4).startswith(_POSTSCRIPT):
        raise InputError(f"{name} is PostScript, a program that would have to be run: {_FIX}")
    file.seek(0)
    try:
        with _filters, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.init()  # older versions of Pillow do not have all of them
            image = Image.open(file, formats=[kind for kind in FORMATS if kind in Image.OPEN])
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{name} has more than the {MOST_PIXELS} pixels allowed: make it smaller") from None
    except UnidentifiedImageError:
        raise InputError(
            f"{name} is not a picture that can be read, or its start is damaged: give a PNG or a JPEG"
        ) from None
    except Exception as error:  # damaged headers make the format readers raise anything
        raise InputError(f"{name} is damaged ({_line(error)}): {_FIX}, or fetch it again") from None
    with image:
        return _decode(image, name, background)


def _decode(image: Image.Image, name: str, background: int) -> Array:
    """Checks what the header says, then decodes."""
    _check_size(image.height, image.width, name)
    if image.format in PROGRAMS:
        raise InputError(f"{name} is {image.format}, a program that would have to be run: {_FIX}")
    try:
        image.load()
    except Exception as error:  # damaged data makes the decoders raise anything
        raise InputError(f"{name} is cut off or damaged ({_line(error)}): fetch it again, or {_FIX}") from None
    _check_size(image.height, image.width, name)  # an icon's header need not tell the truth
    with contextlib.suppress(Exception):  # damaged EXIF: the picture itself is whole
        image = ImageOps.exif_transpose(image)
    try:
        return _flat(_from_image(image, name), background)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(f"{name} has the mode {image.mode}, which is not read ({_line(error)}): {_FIX}") from None


def _from_image(image: Image.Image, name: str) -> Image.Image:
    """Any mode -> RGB or RGBA of 8 bits."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(
                f"{name} holds values {values.min()}..{values.max()}, beyond 16 bits: save it with 8 or 16"
            )
        gray = Image.fromarray(_narrow(values))
        key = image.info.get("transparency")
        if isinstance(key, int):
            gray.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
        return gray.convert("RGBA" if isinstance(key, int) else "RGB")
    if image.mode == "F":
        values = np.asarray(image)
        return _from_array(values / 255 if values.max() > 1 else values, name)
    transparent = image.has_transparency_data or image.mode in ("La", "RGBa")
    if image.mode == "La":
        image = image.convert("LA")  # premultiplied gray has no direct way to RGBA
    return image.convert("RGBA" if transparent else "RGB")


def _from_array(values: Array, name: str = "the array") -> Image.Image:
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 2, 3, 4):
        raise InputError(f"{name} has the shape {list(values.shape)}: give [H, W] or [H, W, C] with 1 to 4 channels")
    _check_size(values.shape[0], values.shape[1], name)
    if values.dtype == np.uint16:
        values = _narrow(values)
    elif values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # also refuses NaN
            raise InputError(f"{name} holds values {low:g}..{high:g}: floating point pictures are 0..1, without NaN")
        values = (values * 255 + 0.5).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise InputError(f"{name} is of {values.dtype}: give uint8 in 0..255 or float in 0..1")
    mode = ("L", "LA", "RGB", "RGBA")[values.shape[2] - 1]
    image = Image.fromarray(np.ascontiguousarray(values[..., 0] if mode == "L" else values))
    return image.convert("RGBA" if mode in ("LA", "RGBA") else "RGB")


def _flat(image: Image.Image, background: int) -> Array:
    if image.mode == "RGBA":
        ground = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(ground, image).convert("RGB")
    return np.array(image)


def _narrow(values: Array) -> Array:
    """0..65535 -> uint8 0..255, rounded: 65535 = 257 * 255."""
    return ((values.astype(np.int64) + 128) // 257).astype(np.uint8)


def _check_size(height: int, width: int, name: str) -> None:
    if height < 1 or width < 1:
        raise InputError(f"{name} is {width}x{height}: both sides must be at least 1 pixel")
    if height * width > MOST_PIXELS:
        raise InputError(f"{name} is {width}x{height}, more than the {MOST_PIXELS} pixels allowed: make it smaller")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def resize(image: Array, size: tuple[int, int]) -> Array:
    """uint8 [H, W, 3] -> uint8 [h, w, 3] for ``size`` = (h, w), antialiased (Lanczos). Raises InputError."""
    _check_rgb(image)
    height, width = size
    _check_size(height, width, "the new size")
    if image.shape[:2] == (height, width):
        return image.copy()
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def to_input(image: Array, size: int, fit: str = "crop") -> Array:
    """uint8 [H, W, 3] -> float32 [1, 3, size, size], 0..255 mapped to [-1, 1].

    ``fit`` for pictures that are not square: "crop" keeps the central square, "stretch" changes the proportions, "pad"
    keeps all of the picture and fills with 0, the middle of the range. Raises InputError.
    """
    _check_rgb(image)
    _check_size(size, size, "the network's input")
    height, width = image.shape[:2]
    target = (size, size)
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]  # first, so that no pixel outside is blended in
    elif fit == "pad":
        longest = max(height, width)
        target = (max(1, round(height * size / longest)), max(1, round(width * size / longest)))
    elif fit != "stretch":
        raise InputError(f"fit {fit!r} is unknown: crop, stretch or pad")
    pixels = resize(np.ascontiguousarray(image), target).astype(np.float32) / np.float32(127.5) - 1
    filled = np.zeros((1, 3, size, size), np.float32)
    top, left = (size - target[0]) // 2, (size - target[1]) // 2
    filled[0, :, top : top + target[0], left : left + target[1]] = pixels.transpose(2, 0, 1)
    return filled


def _check_rgb(image: Array) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"{image.dtype} {list(image.shape)} is not a picture of uint8 [H, W, 3]: read it with read_image"
        )
    _check_size(image.shape[0], image.shape[1], "the image")
