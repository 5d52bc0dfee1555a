"""Requests that no client should send, each a variation drawn from a seed; the pictures among them are in ``serve_pictures``."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anycost.benchmarks.serve_pictures import Picture, pictures

JSON = {"Content-Type": "application/json"}
LENGTH = "Inference-Header-Content-Length"
BOUNDARY = "----anycost-bench"


@dataclass(frozen=True)
class Case:
    """refuse: whether an image (200) would be wrong. raw: the whole request as bytes, which need not be HTTP: the server may
    then close the connection without a word."""

    kind: str
    method: str = "POST"
    path: str = "/v1/generate"
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    refuse: bool = False
    raw: bytes | None = None


# Values where numbers, lists or texts are expected, as JSON.
_WORDS = (
    "null true false 0 -1 1e400 -1e400 NaN Infinity -Infinity 1e308 5e-324 0.1 4294967296 18446744073709551616 "
    '"" "0" "1e3" [] {} [[]] [null] [true] [0.5] [-1] ["0"] [1e308] [NaN] {"a":{}} "\\ud800" "\\u0000" "../../etc/passwd" '
    '"%00" "<script>" [[1,2],[3]]'
)
NASTY = _WORDS.split()


def nasty(draw: random.Random) -> str:
    which = draw.randrange(len(NASTY) + 5)
    if which < len(NASTY):
        return NASTY[which]
    return (
        "9" * draw.choice((30, 400, 5000, 200_000)),
        json.dumps("x" * draw.choice((300, 100_000))),
        "[" * draw.choice((50, 1000, 100_000)),
        "[" * 2000 + "]" * 2000,
        json.dumps(list(range(draw.choice((17, 257, 20_000))))),
    )[which - len(NASTY)]


def _text(values: Mapping[str, str]) -> bytes:
    """An object of values that are JSON already, or nearly."""
    return ("{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in values.items()) + "}").encode()


GENERATE = {
    "seeds": "[0]",
    "psi": "0.7",
    "noise": '"stored"',
    "noise_seed": "0",
    "subnet": "null",
    "backend": "null",
    "format": '"png"',
    "deadline_ms": "5000",
    "budget": '{"latency_ms":500}',
}
EDIT = {"seed": "0", "values": "{}", "psi": "1", "format": '"jpeg"', "w_plus": "null"}
LIMITS = ("latency_ms", "memory_mb", "min_resolution", "max_resolution", "max_distance")


def field_wrong(draw: random.Random) -> Case:
    """A valid body with one value replaced, or one that no form has."""
    path, form = draw.choice((("/v1/generate", GENERATE), ("/v1/edit", EDIT)))
    values = {name: value for name, value in form.items() if draw.random() < 0.5 or name in ("seeds", "seed")}
    which = draw.randrange(4)
    if which == 0:
        values["budget"] = _text({draw.choice(LIMITS): nasty(draw)}).decode()
    elif which == 1 and path == "/v1/edit":
        values["values"] = _text({draw.choice(("smile", "nothing", "")): nasty(draw)}).decode()
    elif which == 2:
        values["nothing"] = nasty(draw)
        return Case("unknown field", path=path, body=_text(values), headers=JSON, refuse=True)
    else:
        values[draw.choice(list(form))] = nasty(draw)
    return Case("wrong value", path=path, body=_text(values), headers=JSON)


def no_json(draw: random.Random) -> Case:
    whole = _text(GENERATE)
    body = draw.choice(
        (
            b"",
            b"null",
            b"0",
            b'"seeds"',
            b"[]",
            b"{}",
            b"{" * 100_000,
            b"[" * 500_000,
            b'{"seeds":' * 20_000,
            b"\xff\xfe" + whole,
            b"\x00" * draw.randrange(1, 5000),
            draw.randbytes(draw.randrange(1, 3000)),
            whole[: draw.randrange(len(whole))],
            whole + b"}",
            whole.replace(b"[0]", b"[0,]"),
            whole.replace(b'"', b"'"),
            b'{"seeds":[0],"seeds":"x"}',
            b'{"seeds":[' + b"0," * 400_000 + b"0]}",
            b'{"\xed\xa0\x80":1}',
        )
    )
    path = draw.choice(("/v1/generate", "/v1/edit", "/v2/models/generator/infer"))
    return Case("no JSON", path=path, body=body, headers=JSON, refuse=True)


def wrong_type(draw: random.Random) -> Case:
    kinds = (
        "text/plain",
        "application/xml",
        "multipart/form-data",
        "image/png",
        "",
        "application/json; charset=utf-16",
        "x" * 5000,
    )
    headers = {"Content-Type": draw.choice(kinds)}
    if draw.random() < 0.3:
        headers["Content-Encoding"] = draw.choice(("gzip", "deflate", "br", "zstd", "nothing"))
    path = draw.choice(("/v1/generate", "/v1/encode", "/v1/inpaint", "/v1/translate"))
    return Case(
        "wrong content type",
        path=path,
        body=draw.choice((b"{}", b"", b"\x1f\x8b\x08", b"a=b")),
        headers=headers,
        refuse=True,
    )


def address(draw: random.Random) -> Case:
    """Methods, paths, queries and headers. Some are harmless."""
    if draw.random() < 0.4:
        name = draw.choice(("latency_ms", "memory_mb", "min_resolution", "max_resolution", "subnet", "nothing"))
        value = draw.choice(
            ("nan", "inf", "-1", "0", "1e400", "x", "%00", "9" * 4000, "", "%ff", "1&latency_ms=2", "0.5%40")
        )
        return Case("query", "GET", f"/v1/explain?{name}={value}")
    path = draw.choice(
        (
            "/../../etc/passwd",
            "/static/../app.py",
            "/static/%2e%2e%2fapp.py",
            "/static/%00",
            "/v2/models/%00",
            "/v2/models/..%2f..%2fetc",
            "/v2/models/" + "x" * 3000,
            "/v2/models/generator/versions/2",
            "/v2/models/generator/versions/" + "9" * 300 + "/ready",
            "/v2/models/\u00e9".encode().decode("latin-1"),
            "/" + "a/" * 3000,
            "/v1",
            "//v1/generate",
            "/v1/generate/",
            "/v1/generate?x=" + "y" * 30_000,
        )
    )
    method = draw.choice(("GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "HEAD", "NOTHING"))
    headers = draw.choice(
        (
            {},
            {"X-Deadline-Ms": draw.choice(("-1", "0", "x", "1e3", "9" * 5000, "nan"))},
            {"X-Request-Id": draw.choice(("../x", "a" * 10_000, "<b>", "{}"))},
            {"Authorization": draw.choice(("Bearer", "Bearer x", "Basic eDp5", "x" * 3000))},
            {"Origin": "http://example.org", "Access-Control-Request-Method": "POST"},
            {f"X-{i}": "y" for i in range(draw.choice((10, 90)))},
            {"Expect": "nothing"},
        )
    )
    return Case("address", method, path, headers=headers)


def deadline(draw: random.Random) -> Case:
    value = draw.choice(("-1", "0", "x", "1e3", "9" * 5000, "nan", "", "\u00b2".encode().decode("latin-1")))
    return Case("deadline", body=b'{"seeds":[0]}', headers={**JSON, "X-Deadline-Ms": value}, refuse=True)


def not_http(draw: random.Random) -> Case:
    head = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\n"
    raw = draw.choice(
        (
            draw.randbytes(draw.randrange(1, 2000)) + b"\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(300),  # the start of TLS
            b"GET\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            head + b"Content-Length: -1\r\n\r\n",
            head + b"Content-Length: 1e3\r\n\r\n",
            head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            head + b"Content-Length: 99999999999999999999\r\n\r\n",
            head + b"Content-Length: 999999999999\r\n\r\n{}",
            head + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n{}",
            head + b"Transfer-Encoding: nothing\r\n\r\n",
            head + b"X: " + b"y" * draw.choice((20_000, 500_000)) + b"\r\n\r\n",
            head + b"".join(b"X%d: y\r\n" % i for i in range(5000)) + b"\r\n",
            head + b"Bad Header\r\n\r\n",
            head + b"X: a\x00b\r\n\r\n",
            b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
    )
    return Case("no HTTP", raw=raw)


def form(parts: Sequence[tuple[str, str | None, bytes]], end: bool = True) -> bytes:
    """A multipart body of (name, file's name, content)."""
    pieces = []
    for name, file, content in parts:
        told = f'; filename="{file}"' if file is not None else ""
        pieces.append(
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{told}\r\n\r\n'.encode() + content + b"\r\n"
        )
    return b"".join(pieces) + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
MASKS = (
    "box:0,0,1e9,1", "box:-1,-1,5,5", "box:0,0,0,0", "box:nan,0,1,1", "box:" + "9" * 150, "box:1,2", "boxes:1000000000",
    "boxes:-1", "boxes:x", "strokes:9", "circle", "center:center", "box", "boxes:", "../mask.png",
)  # fmt: skip


def field_of_form(draw: random.Random) -> Case:
    """A good picture, and fields that are not."""
    image = ("image", "a.png", pictures(draw, good=True).data)
    path = draw.choice(("/v1/encode", "/v1/inpaint", "/v1/translate"))
    name = draw.choice(("mask", "seed", "seeds", "network", "format", "fit", "nothing"))
    value = draw.choice((*MASKS, "", "-1", "4294967296", "1,2,", ",".join("1" * 40), "x" * 70_000, "\u00b2", "png\x00"))
    parts = [image, ("mask", None, b"center"), (name, None, value.encode())]
    return Case("field of a form", path=path, body=form(parts), headers=FORM)


def no_form(draw: random.Random) -> Case:
    image = pictures(draw, good=True).data
    whole = form([("image", "a.png", image), ("mask", None, b"center")])
    body = draw.choice(
        (
            b"",
            whole[: len(whole) // 2],
            whole.replace(BOUNDARY.encode(), b"other"),
            form([("image", "a.png", image), ("mask", None, b"center")], end=False)[: len(image) // 2],
            form([(f"f{i}", None, b"x") for i in range(500)]),
            form([(f"f{i}", "x.png", b"x") for i in range(50)]),
            form([("mask", None, b"center")]),
            form([("image", None, b"not a file"), ("mask", None, b"center")]),
            whole.replace(b'name="image"', b"name=image" + b"x" * 60_000),
            whole.replace(b"Content-Disposition", b"Content-Nothing"),
            draw.randbytes(2000),
        )
    )
    kinds = (FORM["Content-Type"],) * 4 + (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'x' * 5000}",
    )
    return Case("no form", path="/v1/inpaint", body=body, headers={"Content-Type": draw.choice(kinds)}, refuse=True)


def picture(draw: random.Random) -> Case:
    """A picture that is damaged, hostile or rare, as a body or in a form."""
    one: Picture = pictures(draw)
    if draw.random() < 0.5:
        return Case(
            f"picture: {one.kind}",
            path="/v1/encode",
            body=one.data,
            headers={"Content-Type": one.media},
            refuse=one.refuse,
        )
    path = draw.choice(("/v1/encode", "/v1/inpaint", "/v1/translate"))
    parts = [("image", "a", one.data), ("mask", None, b"center")]
    if path == "/v1/inpaint" and draw.random() < 0.4:
        parts = [("image", "a", pictures(draw, good=True).data), ("mask", "b", one.data)]
    return Case(f"picture: {one.kind}", path=path, body=form(parts), headers=FORM, refuse=one.refuse)


def tensors(draw: random.Random) -> Case:
    """Calls of the Open Inference Protocol: heads that lie about the bytes behind them, shapes, types, names."""
    model = draw.choice(("generator", "generator", "mapping", "nothing", "0.5@16", "encoder", "%00"))
    data = np.arange(2, dtype=np.int64).tobytes()
    entry: dict[str, Any] = {"name": "seeds", "shape": [2], "datatype": "INT64", "parameters": {"binary_data_size": 16}}
    sizes = (-1, 0, 1, 15, 17, 2**31, 2**63, 2**64, 1e9, 1.5, "16", None, True, [16])
    shapes: tuple[Any, ...] = (
        [],
        [0],
        [-1],
        [3],
        [2, 1],
        [2**31],
        [2**31] * 8,
        [1] * 9,
        [1.5],
        ["2"],
        "2",
        None,
        [2**70],
    )
    which = draw.randrange(8)
    body: dict[str, Any] = {"inputs": [entry]}
    length: str | None = None
    if which == 0:
        entry["parameters"] = {"binary_data_size": draw.choice(sizes)}
    elif which == 1:
        entry["shape"] = draw.choice(shapes)
    elif which == 2:
        entry["datatype"] = draw.choice(("BYTES", "BOOL", "FP16", "FP64", "INT8", "", None, "int64", "x" * 500))
    elif which == 3:
        body["inputs"] = [entry, entry]
    elif which == 4:
        length = draw.choice(
            ("-1", "0", "1", "999999", "9" * 5000, "x", "1.5", "", "+5", "\u00b2".encode().decode("latin-1"))
        )
    elif which == 5:
        body["outputs"] = draw.choice(
            ([{"name": "nothing"}], [{}], "images", [{"name": "images", "parameters": {"classification": 3}}])
        )
    elif which == 6:
        entry["parameters"] = {"shared_memory_region": "x", "shared_memory_byte_size": 16}
    else:
        values = draw.choice(
            (
                [[0], [1, 2]],
                ["a", "b"],
                [None, None],
                [1e308, 1],
                [-1, 0],
                {"a": 1},
                [2**63, 2**64],
                [True, False],
                [[0, 1]],
            )
        )
        entry |= {"parameters": {}, "data": values}
        return Case("tensors in JSON", path=f"/v2/models/{model}/infer", body=json.dumps(body).encode(), headers=JSON)
    text = json.dumps(body).encode()
    headers = {"Content-Type": "application/octet-stream", LENGTH: str(len(text)) if length is None else length}
    return Case("tensors in bytes", path=f"/v2/models/{model}/infer", body=text + data, headers=headers, refuse=True)


def not_numbers(draw: random.Random) -> Case:
    """w+ of the right shape with NaN, infinities and numbers beyond float32."""
    codes = np.zeros((1, 12, 256), np.float32)
    codes[0, 0, 0] = draw.choice((np.nan, np.inf, -np.inf))
    entry = {
        "name": "w_plus",
        "shape": [1, 12, 256],
        "datatype": "FP32",
        "parameters": {"binary_data_size": codes.nbytes},
    }
    text = json.dumps({"inputs": [entry]}).encode()
    headers = {"Content-Type": "application/octet-stream", LENGTH: str(len(text))}
    if draw.random() < 0.5:
        return Case(
            "NaN in tensors",
            path="/v2/models/generator/infer",
            body=text + codes.tobytes(),
            headers=headers,
            refuse=True,
        )
    row = ",".join(["1e39" if draw.random() < 0.5 else "1e400"] * 256)
    body = ('{"w_plus":[' + ",".join([f"[{row}]"] * 12) + "]}").encode()
    return Case("numbers beyond float32", path="/v1/edit", body=body, headers=JSON, refuse=True)


Maker = Callable[[random.Random], Case]
MAKERS: tuple[Maker, ...] = (
    field_wrong, no_json, wrong_type, address, deadline, not_http, field_of_form, no_form, picture, picture, picture, tensors,
    tensors, not_numbers,
)  # fmt: skip


def case(number: int, seed: int = 0) -> Case:
    """The same for the same number and seed; kinds take turns."""
    return MAKERS[number % len(MAKERS)](random.Random(f"{seed}/{number}"))
