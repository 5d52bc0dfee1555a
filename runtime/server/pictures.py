"""Pictures as bytes, in and out. Both run in threads of their own, since they take longer than a loop may stand still."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image

from anycost.errors import InputError
from anycost.runtime.images import read_image
from anycost.runtime.server.errors import RequestError, TooLargeError, WrongTypeError

Array = np.ndarray[Any, np.dtype[Any]]
Format = Literal["png", "jpeg", "webp", "npy", "json"]
MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "npy": "application/x-npy"}
READ = ("PNG", "JPEG", "WEBP")
_NPY = b"\x93NUMPY"
_MOST_NPY_HEADER = 4096
_KINDS = "PNG, JPEG, WebP or npy (uint8 [H, W, 3])"
# Two at a time: a decoded picture takes many times the memory of its file.
_threads = ThreadPoolExecutor(2, thread_name_prefix="pictures")
T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(_threads, call)


def decode(data: bytes, max_pixels: int, what: str = "the picture") -> Array:
    """A PNG, JPEG, WebP or npy file -> uint8 [H, W, 3]. The size is checked before anything is decoded.

    Raises TooLargeError, WrongTypeError, and RequestError for what is damaged.
    """
    if not data:
        raise RequestError(f"{what} has 0 bytes: send {_KINDS}")
    if data.startswith(_NPY):
        return _decode_npy(data, max_pixels, what)
    try:
        with Image.open(io.BytesIO(data), formats=READ) as image:
            width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLargeError(f"{what} has more than {max_pixels} pixels: make it smaller") from None
    except Exception:  # damaged headers make the readers raise anything
        raise WrongTypeError(f"{what} is not {_KINDS}, or its start is damaged") from None
    _check_pixels(width * height, max_pixels, what)
    try:
        return read_image(data)
    except InputError as error:
        raise RequestError(str(error).replace("the data", what, 1)) from None


def _decode_npy(data: bytes, max_pixels: int, what: str) -> Array:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file, max_header_size=_MOST_NPY_HEADER)
    except Exception as error:  # the header is Python's syntax, read by a parser that raises anything
        raise RequestError(f"{what} is a damaged npy file: {type(error).__name__}") from None
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or fortran or min(shape) < 1:
        raise RequestError(f"{what} is {dtype} {list(shape)}: send uint8 [H, W, 3] in C order")
    _check_pixels(shape[0] * shape[1], max_pixels, what)
    rest = data[file.tell() :]
    if len(rest) != shape[0] * shape[1] * 3:
        raise RequestError(f"{what} is cut off: {len(rest)} bytes of {shape[0] * shape[1] * 3}")
    return np.frombuffer(rest, np.uint8).reshape(shape)


def _check_pixels(count: int, most: int, what: str) -> None:
    if count < 1:
        raise RequestError(f"{what} has no pixels")
    if count > most:
        raise TooLargeError(f"{what} has {count} pixels and {most} are allowed: make it smaller")


def decode_mask(data: bytes, max_pixels: int) -> Array:
    """A picture with white where it is missing -> bool [H, W]."""
    missing: Array = decode(data, max_pixels, "the mask").max(axis=2) > 127
    return missing


def encode(image: Array, form: str) -> bytes:
    """uint8 [H, W, 3] -> a file."""
    file = io.BytesIO()
    if form == "npy":
        np.save(file, image, allow_pickle=False)
    elif form == "jpeg":
        Image.fromarray(image).save(file, "JPEG", quality=92)
    elif form == "webp":
        Image.fromarray(image).save(file, "WEBP", quality=92, method=2)
    else:
        Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def encode_text(image: Array, form: str) -> str:
    """As ``encode``, in base64."""
    return base64.b64encode(encode(image, form)).decode()
