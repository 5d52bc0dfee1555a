"""PyTorch archives and older files that try to fill or to hang their reader."""

import struct

from hostile import LISTS, archive, integer, integers, name, old, words


def stored(count: int, key: str = "0", kind: str = "Float", extra: bytes = b"") -> bytes:
    """A storage's persistent id, looked up."""
    return (
        b"("
        + words("storage")
        + name("torch", f"{kind}Storage")
        + words(key)
        + words("cpu")
        + integer(count)
        + extra
        + b"tQ"
    )


def viewed(storage: bytes, offset: int, sizes: bytes, strides: bytes, after: bytes = b"") -> bytes:
    hooks = name("collections", "OrderedDict") + b")R"
    return (
        name("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + storage
        + integer(offset)
        + sizes
        + strides
        + b"\x89"
        + hooks
        + after
        + b"tR"
    )


def entries(count: int) -> bytes:
    """An archive with a long directory of one entry."""
    whole = archive(b"\x80\x02}.")
    begin = whole.index(b"PK\x01\x02")
    entry = whole[begin : whole.index(b"PK\x01\x02", begin + 1)]
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, len(entry) * count, begin, 0)
    return whole[:begin] + entry * count + end


def torch_files() -> dict[str, bytes]:
    """What PyTorch's own archives and older files may try."""
    one = integers(1)

    def held(body: bytes, extra: dict[str, bytes] | None = None) -> bytes:
        data = b"\x80\x02}" + words("style.1.weight") + body + b"s."
        return archive(data, {"data/0": bytes(16)} if extra is None else extra)

    def old_held(body: bytes, names: bytes = b"](" + words("0") + b"e", values: bytes = b"") -> bytes:
        return old(b"\x80\x02}" + words("style.1.weight") + body + b"s.", names, values)

    fine = viewed(stored(4), 0, integers(4), one)
    old_fine = viewed(stored(4, extra=b"N"), 0, integers(4), one)
    text = b"X" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"q\x00"
    encode = name("_codecs", "encode") + b"q\x01" + words("latin1") + b"q\x02]("
    wide = b"}q\x01(" + b"".join(words(str(i)) + b"h\x00" for i in range(20_000)) + b"u"
    table = b"}(" + b"".join(words(str(i)) + b"K\x01" for i in range(20_000)) + b"uq\x00"
    many = b"".join(words(str(i)) + viewed(stored((1 << 18) - i), 0, one, one) for i in range(500))
    columns = b"".join(
        words(str(i)) + viewed(b"h\x00", 0, integers(1 << 9, 1 << 9), integers(1, 1 << 9)) for i in range(2_000)
    )
    whole = archive(b"\x80\x02}.", {"data/0": bytes(16)})
    files = {
        "storage-missing": held(fine, {}),
        "storage-too-few": held(fine, {"data/0": bytes(15)}),
        "storage-terabytes": held(viewed(stored(1 << 38), 0, integers(1 << 38), one)),
        "storage-negative": held(viewed(stored(-4), 0, integers(4), one)),
        "storage-huge": held(viewed(stored(1 << 100), 0, integers(4), one)),
        "storage-not-a-tuple": held(words("storage") + b"Q"),
        "storage-of-laughs": held(b"(" + words("storage") + LISTS + LISTS + words("0") + words("cpu") + b"tQ"),
        "storage-alone": held(stored(4)),
        "storage-above": held(viewed(stored(4, "../../data.pkl"), 0, integers(4), one)),
        "module-id": held(b"(" + words("module") + words("os") + words("a.py") + words("x") + b"NtQ"),
        "stride-0-terabytes": held(viewed(stored(4), 0, integers(1 << 40), integers(0))),
        "stride-0-small": held(viewed(stored(4), 0, integers(1 << 12), integers(0))),
        "view-beyond": held(viewed(stored(4), 1, integers(4), one)),
        "view-before": held(viewed(stored(4), -1, integers(4), one)),
        "view-negative": held(viewed(stored(4), 0, integers(-4), one)),
        "view-overflow": held(viewed(stored(4), 0, integers(1 << 63, 1 << 63), integers(1 << 62, 1))),
        "view-empty-overflow": held(viewed(stored(4), 0, integers(0, 1 << 62, 1 << 62), integers(1, 1, 1))),
        "view-of-nothing": held(viewed(b"N", 0, integers(4), one)),
        "view-conjugated": held(viewed(stored(4), 0, integers(4), one, b"}" + words("conj") + b"\x88s")),
        "complex": held(viewed(stored(1, kind="ComplexFloat"), 0, one, one)),
        "quantized": held(name("torch._utils", "_rebuild_qtensor") + b"(tR"),
        "sparse": held(name("torch._utils", "_rebuild_sparse_tensor") + b"(tR"),
        "meta": held(name("torch._utils", "_rebuild_meta_tensor_no_storage") + b"(tR"),
        "parameter-of-text": held(name("torch._utils", "_rebuild_parameter") + words("x") + b"\x85R"),
        "namespace-of-text": held(name("argparse", "Namespace") + b")\x81" + words("x") + b"b"),
        "namespace-called": held(name("argparse", "Namespace") + words("x") + b"\x85R"),
        "parser": held(name("argparse", "FileType") + b")R"),
        "codecs-decode": held(name("_codecs", "decode") + words("x") + words("zip") + b"\x86R"),
        "codecs-again": held(text + encode + b"h\x01h\x00h\x02\x86R" * 20_000 + b"e"),
        "name-of-lines": archive(b"\x80\x02}" + words("a\nb") + fine + b"s.", {"data/0": bytes(16)}),
        "name-long": archive(b"\x80\x02}" + words("a" * 100_000) + fine + b"s.", {"data/0": bytes(16)}),
        "table-again": archive(b"\x80\x02" + table + wide + b"."),
        "storages-again": archive(b"\x80\x02}(" + many + b"u.", {"data/0": bytes(1 << 20)}),
        "columns-again": archive(
            b"\x80\x02}(" + words("a") + stored(1 << 18) + b"q\x00" + columns + b"u.", {"data/0": bytes(1 << 20)}
        ),
        "order-big": archive(b"\x80\x02}.", {"byteorder": b"big"}),
        "two-pickles": archive(b"\x80\x02}.", {"../b/data.pkl": b"\x80\x02}."}),
        "no-pickle": whole.replace(b"data.pkl", b"data.pkk"),
        "end-cut": whole[:-8],
        "end-count": whole[:-14] + b"\xff\xff" * 2 + whole[-10:],
        "end-wide": whole[:-22] + b"PK\x06\x07" + struct.pack("<IQI", 0, (1 << 64) - 1, 1) + whole[-22:],
        "end-elsewhere": whole[:-6] + struct.pack("<IH", (1 << 32) - 2, 0),
        "entry-encrypted": whole.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
        "entries-many": entries(60_000),
        "entries-claimed": whole[:-14] + b"\x10\x27" * 2 + whole[-10:],
    }
    files |= {
        "old-values-missing": old_held(old_fine),
        "old-values-cut": old_held(old_fine, values=struct.pack("<q", 4) + bytes(15)),
        "old-values-other": old_held(old_fine, values=struct.pack("<q", 5) + bytes(20)),
        "old-values-unlisted": old_held(old_fine, b"]"),
        "old-values-unknown": old_held(old_fine, b"](" + words("1") + b"e", struct.pack("<q", 4) + bytes(16)),
        "old-names-endless": old_held(old_fine, b"]q\x00h\x00a"),
        "old-names-laughs": old_held(old_fine, b"](" + LISTS + b"e"),
        "old-two-sizes": old_held(old_fine + b"s" + words("b") + viewed(stored(5, extra=b"N"), 0, integers(4), one)),
        "old-view": old_held(viewed(stored(4, extra=integers(0, 0, 4)), 0, integers(4), one)),
        "old-terabytes": old_held(viewed(stored(1 << 38, extra=b"N"), 0, one, one), values=struct.pack("<q", 1 << 38)),
        "old-magic-only": old(b"")[:20],
        "old-order-big": old(b"\x80\x02}.").replace(b"\x88s.", b"\x89s."),
    }
    return files
