"""Pictures that a server should survive: damaged, hostile, and rare but good ones."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

NPY = "application/x-npy"
MEDIA = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Picture:
    """refuse: whether a result would be wrong; else the server may take it or refuse it."""

    kind: str
    data: bytes
    media: str = "image/png"
    refuse: bool = False


class Touch:
    """Unpickled it ends the process: a server that does is seen to die."""

    def __reduce__(self) -> Any:
        return os._exit, (86,)


@cache
def _saved(form: str, mode: str = "RGB", side: int = 48, **options: Any) -> bytes:
    pixels = np.random.default_rng(7).integers(0, 255, (side, side + 8, 3), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, pixels: bytes, *more: bytes, depth: int = 8, colour: int = 2) -> bytes:
    head = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + b"".join(more) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
    )


@cache
def _zeros(count: int) -> bytes:
    """So many zeros, compressed a thousand times."""
    packer = zlib.compressobj(9)
    pieces = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join([*pieces, packer.flush()])


def cut(draw: random.Random) -> Picture:
    form = draw.choice(list(MEDIA))
    data = _saved(form)
    return Picture(f"cut {form}", data[: draw.randrange(int(len(data) * 0.8))], MEDIA[form], refuse=True)


def flipped(draw: random.Random) -> Picture:
    form = draw.choice(list(MEDIA))
    data = bytearray(_saved(form))
    for _ in range(draw.choice((1, 3, 30))):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return Picture(f"flipped {form}", bytes(data), MEDIA[form])


def size(draw: random.Random) -> Picture:
    """Headers that promise more pixels than there are, than are allowed, or none."""
    width, height = draw.choice(
        ((60_000, 60_000), (2**31 - 1, 1), (-1, -1), (0, 0), (0, 5), (1, 100_000_000), (30_000, 30_000))
    )
    return Picture("size of a bomb", _png(width, height, _zeros(1 << 20)), refuse=True)


def packed(draw: random.Random) -> Picture:
    """Much that is packed into little: pixels beyond the size, texts, a colour profile."""
    bomb = _zeros(64 << 20)
    which = draw.randrange(4)
    if which == 0:
        return Picture("more pixels than its size", _png(64, 64, bomb))
    if which == 1:
        return Picture("packed text", _png(8, 8, zlib.compress(bytes(25 * 8)), _chunk(b"zTXt", b"a\0\0" + bomb)))
    if which == 2:
        return Picture("packed text", _png(8, 8, zlib.compress(bytes(25 * 8)), _chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)))
    return Picture("packed profile", _png(8, 8, zlib.compress(bytes(25 * 8)), _chunk(b"iCCP", b"a\0\0" + bomb)))


def rare(draw: random.Random) -> Picture:
    """Good files of rare kinds."""
    kinds = "P:PNG 1:PNG L:PNG LA:PNG RGBA:PNG I;16:PNG CMYK:JPEG L:JPEG RGBA:WEBP"
    mode, _, form = draw.choice(kinds.split()).partition(":")
    return Picture(f"rare {mode} {form}", _saved(form, mode), MEDIA[form])


def animated(draw: random.Random) -> Picture:
    form = draw.choice(("PNG", "WEBP"))
    file = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), (i * 9 % 256, i, 0)) for i in range(draw.choice((2, 60)))]
    frames[0].save(file, form, save_all=True, append_images=frames[1:], duration=20)
    return Picture(f"animated {form}", file.getvalue(), MEDIA[form])


def turned(draw: random.Random) -> Picture:
    """EXIF: every orientation, some that are none, and blocks that are no EXIF."""
    exif = Image.Exif()
    exif[0x0112] = draw.choice((1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 65535))
    block = exif.tobytes() if draw.random() < 0.6 else b"Exif\0\0" + draw.randbytes(draw.randrange(80))
    form = draw.choice(("JPEG", "WEBP"))
    file = io.BytesIO()
    Image.new("RGB", (40, 24), (9, 90, 200)).save(file, form, exif=block)
    return Picture("EXIF", file.getvalue(), MEDIA[form])


def other(draw: random.Random) -> Picture:
    """Formats that are not read, with a content type that says they are."""
    form = draw.choice(("GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "text"))
    texts = (
        b"%!PS\n",
        b"<svg/>",
        b"%PDF-1.4",
        b"PK\3\4",
        b"",
        b"\x00",
        draw.randbytes(500),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBP",
    )
    data = draw.choice(texts) if form == "text" else _saved(form)
    return Picture("other format", data, draw.choice(list(MEDIA.values())), refuse=True)


def _npy(head: str, data: bytes, version: bytes = b"\1\0") -> bytes:
    text = head.encode() + b"\n"
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + data


def arrays(draw: random.Random) -> Picture:
    """npy files: pickles, shapes that lie, types, heads that are no heads."""
    head = "{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    which = draw.randrange(4)
    if which == 0:
        file = io.BytesIO()
        np.save(file, np.array([Touch()], dtype=object), allow_pickle=True)
        data = draw.choice(
            (
                file.getvalue(),
                pickle.dumps(Touch()),
                _npy(head.format(descr="'|O'", order="False", shape="(8, 8, 3)"), pickle.dumps(Touch())),
            )
        )
    elif which == 1:
        shapes = (
            "(99999, 99999, 3)",
            "(2, 2)",
            "(0, 4, 3)",
            "(-4, 4, 3)",
            "(4611686018427387904, 4, 3)",
            "(4.5, 4, 3)",
            "('a',)",
            "(8, 8, 4)",
            "(8, 7, 3)",
        )
        data = _npy(head.format(descr="'|u1'", order="False", shape=draw.choice(shapes)), bytes(192))
    elif which == 2:
        kinds = (
            "'<f8'",
            "'>u2'",
            "'|b1'",
            "'<U9'",
            "'|V3'",
            "[('a','|O')]",
            "'<M8[ns]'",
            "'nothing'",
            "5",
            "[" * 200 + "]" * 200,
        )
        data = _npy(
            head.format(descr=draw.choice(kinds), order=draw.choice(("True", "7")), shape="(8, 8, 3)"), bytes(192)
        )
    else:
        heads = (
            "",
            "{}",
            "[]",
            "(" * 3000,
            "{'descr':",
            "__import__('os')._exit(86)",
            "9" * 60_000,
            "-" * 4000 + "1",
            "\0" * 100,
        )
        version = draw.choice((b"\1\0", b"\2\0", b"\3\0", b"\7\7"))
        data = draw.choice(
            (
                _npy(draw.choice(heads), bytes(192), version),
                b"\x93NUMPY\2\0\xff\xff\xff\xff",
                b"\x93NUMPY\1\0",
                b"\x93NUMPY",
            )
        )
    return Picture("npy", data, NPY, refuse=True)


def profile(draw: random.Random) -> Picture:
    return Picture("wrong profile", _saved("JPEG", icc_profile=draw.randbytes(200)), "image/jpeg")


def scans(draw: random.Random) -> Picture:
    """A progressive JPEG whose last scan comes again and again: little to send, long to decode."""
    return Picture("many scans", _many_scans(draw.choice((20, 200))), "image/jpeg")


@cache
def _many_scans(count: int, side: int = 1000) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side), 120).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


MAKERS: tuple[Callable[[random.Random], Picture], ...] = (
    cut, cut, flipped, flipped, size, packed, rare, rare, animated, turned, other, arrays, arrays, profile, scans,
)  # fmt: skip


def pictures(draw: random.Random, *, good: bool = False) -> Picture:
    """One of them; good: a whole picture that a camera could have made."""
    if good:
        return Picture("good", _saved("JPEG"), "image/jpeg")
    return draw.choice(MAKERS)(draw)
