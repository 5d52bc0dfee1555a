"""Pickles that try to run, to fill or to hang their reader, written opcode by opcode."""

import io
import random
import struct
import zipfile

import torch


def words(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def integer(value: int) -> bytes:
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def integers(*values: int) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def legacy(storage: object) -> bytes:
    """As a storage pickles itself."""
    file = io.BytesIO()
    torch.save(storage, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def flat(data: bytes) -> bytes:
    return name("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(data)) + data + b"\x85R"


def tensor(offset: int, sizes: bytes, strides: bytes, data: bytes | None = None) -> bytes:
    storage = flat(legacy(torch.zeros(4)._typed_storage()) if data is None else data)
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
        + b"tR"
    )


def array(dtype: str, shape: bytes, data: bytes) -> bytes:
    kind = (
        name("numpy", "dtype")
        + words(dtype)
        + b"\x89\x88\x87R(K\x03"
        + words("<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    empty = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    return empty + b"(K\x01" + shape + kind + b"\x89" + data + b"tb"


def archive(data: bytes, more: dict[str, bytes] | None = None) -> bytes:
    """As ``torch.save`` packs a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("a/data.pkl", data)
        for path, content in ({"byteorder": b"little", "version": b"3\n"} | (more or {})).items():
            packed.writestr(path.removeprefix("../") if path.startswith("../") else f"a/{path}", content)
    return file.getvalue()


CALLED = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("subprocess", "check_output"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("builtins", "open"),
    ("builtins", "compile"),
    ("builtins", "bytearray"),
    ("__builtin__", "eval"),
    ("operator", "attrgetter"),
    ("operator", "methodcaller"),
    ("functools", "partial"),
    ("importlib", "import_module"),
    ("pickle", "loads"),
    ("torch.hub", "load"),
    ("torch", "load"),
    ("torch.serialization", "os.system"),
    ("torch.storage", "_load_from_bytes.x"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("numpy", "load"),
    ("torch.nn.modules.conv", "Conv2d"),
    ("dnnlib.tflib.network", "Network"),
    ("dnnlib.util", "call_func_by_name"),
    ("torch.jit", "load"),
    ("ctypes", "CDLL"),
]
HUGE = {
    "BINUNICODE8": b"\x8d" + struct.pack("<Q", 1 << 62),
    "BINBYTES8": b"\x8e" + struct.pack("<Q", (1 << 64) - 1),
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 1 << 40),
    "BINUNICODE": b"X\xff\xff\xff\xff",
    "BINBYTES": b"B\xff\xff\xff\xff",
    "BINSTRING": b"T\xff\xff\xff\x7f",
    "BINSTRING-negative": b"T\xff\xff\xff\xff",
    "LONG4": b"\x8b\xff\xff\xff\x7f",
    "LONG4-negative": b"\x8b\xff\xff\xff\xff",
    "LONG1": b"\x8a\xff",
    "FRAME": b"\x95" + struct.pack("<Q", 1 << 50),
    "SHORT_BINUNICODE": b"\x8c\xff",
    "SHORT_BINBYTES": b"C\xff",
    "SHORT_BINSTRING": b"U\xff",
    "INT": b"I" + b"9" * 500_000 + b"\n",
    "LONG": b"L" + b"9" * 500_000 + b"L\n",
    "UNICODE": b"V" + b"x" * 500_000,
    "STRING": b"S'" + b"x" * 500_000,
    "LONG_BINPUT": b"Nr" + struct.pack("<I", 1 << 31),
    "LONG_BINGET": b"j" + struct.pack("<I", 1 << 31),
    "PUT": b"Np99999999999\n",
    "PROTO": b"\x80\xff",
}


# Each value holds the one before it, ten times over.
LISTS = b"(]q\x00" + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(60)) + b"t"


def old(data: bytes, names: bytes = b"]", values: bytes = b"") -> bytes:
    """As ``torch.save`` wrote before archives."""
    system = b"\x80\x02}" + words("little_endian") + b"\x88s."
    magic = b"\x80\x02" + b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
    return magic + b"\x80\x02M\xe9\x03." + system + data + b"\x80\x02" + names + b"." + values


def hostile(ran: str) -> dict[str, bytes]:
    """Files by what they try; those that would run something create ``ran``."""
    run = words(f"touch {ran}")
    system = name("os", "system") + run + b"\x85R"
    source = (
        words("module_src")
        + b"X"
        + struct.pack("<I", len(ran) + 15)
        + f"open({ran!r}, 'w')###"[: len(ran) + 15].encode()
    )
    easy = name("dnnlib.util", "EasyDict") + b")\x81"
    lists = LISTS
    pairs = (
        b"(Nq\x00"
        + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(80))
        + b"t"
    )
    many = legacy(torch.zeros(250_000)._typed_storage())
    kept = b"B" + struct.pack("<I", len(many)) + many + b"q\x00"
    again = name("torch.storage", "_load_from_bytes") + b"q\x01](" + b"h\x01h\x00\x85R" * 5000 + b"e"
    zipped = io.BytesIO()
    torch.save({"a": torch.ones(1)}, zipped)
    claims = legacy(torch.zeros(4)._typed_storage())
    bodies = {f"{module}.{attribute}": name(module, attribute) + run + b"\x85R" for module, attribute in CALLED}
    bodies |= {f"size-{opcode}": b"}" + words("a") + data for opcode, data in HUGE.items()}
    bodies |= {
        "STACK_GLOBAL": words("os") + words("system") + b"\x93" + run + b"\x85R",
        "INST": b"(" + run + b"ios\nsystem\n",
        "OBJ": b"(cos\nsystem\n" + run + b"o",
        "NEWOBJ": name("subprocess", "Popen") + run + b"\x85\x81",
        "NEWOBJ_EX": name("subprocess", "Popen") + run + b"\x85}\x92",
        "NEWOBJ-of-function": name("torch.storage", "_load_from_bytes") + b"C\x01x\x85\x81",
        "BUILD-setstate": easy + b"}" + words("__setstate__") + words("os.system") + b"sb",
        "BUILD-dict": name("collections", "OrderedDict") + b")R}" + words("__dict__") + b"}sb",
        "BUILD-function": name("torch", "Size") + b"}" + words("make") + words("x") + b"sb",
        "BUILD-slots": easy + b"N}" + words("__class__") + words("x") + b"s\x86b",
        "EXT1": b"\x82\x01",
        "EXT2": b"\x83\x01\x01",
        "EXT4": b"\x84\x01\x01\x01\x01",
        "PERSID": b"Pabc\n",
        "BINPERSID": words("storage") + b"Q",
        "DUP": b"]2a",
        "value-is-a-function": name("torch", "Size"),
        "call-a-string": words("os.system") + run + b"\x85R",
        "call-a-dtype": name("torch", "float32") + b")R",
        "nested-pickle": flat(b"\x80\x04" + system + b"."),
        "nested-protocol-0": flat(b"cos\nsystem\n(S'touch " + ran.encode() + b"'\ntR."),
        "nested-zip": flat(zipped.getvalue().replace(b"OrderedDict", b"OrderedEvil")),
        "nested-nothing": flat(b""),
        "nested-persistent": flat(
            legacy(torch.zeros(1)._typed_storage()).replace(b"X\x07\x00\x00\x00storage", b"X\x07\x00\x00\x00modules")
        ),
        "nested-huge": tensor(0, integers(4), integers(1), claims.replace(b"K\x04N", b"J\xff\xff\xff\x7fN")),
        "nested-shorter": tensor(0, integers(4), integers(1), claims[:-3]),
        "nested-longer": tensor(0, integers(4), integers(1), claims + b"x"),
        "object-array": array("O8", integers(1), b"](Nq\x00e"),
        "array-terabytes": array("f4", integers(1 << 40), b"C\x04abcd"),
        "array-negative": array("f4", integers(-1, -1), b"C\x04abcd"),
        "structured-array": array("V8", integers(1), b"C\x08abcdefgh"),
        "dtype-of-laughs": name("numpy", "dtype") + lists + b"\x89\x88\x87R",
        "class-of-laughs": name("torch_utils.persistence", "_reconstruct_persistent_obj")
        + b"}"
        + words("class_name")
        + lists
        + b"s\x85R",
        "persistent-source": name("torch_utils.persistence", "_reconstruct_persistent_obj") + b"}" + source + b"s\x85R",
        "deep-lists": b"]" * 1_000_000 + b"a" * 999_999,
        "deep-tuples": b"N" + b"\x85" * 1_000_000,
        "deep-marks": b"(" * 1_000_000,
        "deep-enough": b"N" + b"\x85" * 5000,
        "deep-dicts": (b"}" + words("a")) * 90_000 + b"N" + b"s" * 90_000,
        "laughs-lists": lists,
        "laughs-tuples": pairs,
        "laughs-key": b"}" + pairs + b"Ns",
        "laughs-set": name("builtins", "set") + b"](" + pairs + b"e\x85R",
        "laughs-set-4": b"\x8f(" + pairs + b"\x90",
        "endless": b"]q\x00h\x00a",
        "endless-wide": b"]q\x00(" + b"h\x00" * 100_000 + b"e",
        "unending-steps": b"](" + b"N" * 3_000_000 + b"e",
        "laughs-storages": kept + again + b"\x86",
        "bytearray": name("builtins", "bytearray") + integer(3 << 29) + b"\x85R",
        "sets-again": b"]("
        + b"K\x01" * 50_000
        + b"eq\x00]("
        + (name("builtins", "set") + b"h\x00\x85R") * 20_000
        + b"e",
        "stride-0": tensor(0, integers(1 << 40), integers(0)),
        "size-negative": tensor(0, integers(-4), integers(1)),
        "stride-negative": tensor(3, integers(4), integers(-1)),
        "offset-beyond": tensor(1, integers(4), integers(1)),
        "offset-negative": tensor(-1, integers(4), integers(1)),
        "ranks-differ": tensor(0, integers(4), integers(1, 1)),
        "sizes-overflow": tensor(0, integers(1 << 63, 1 << 63), integers(1 << 62, 1)),
        "rank-4000": tensor(0, integers(*[1] * 4000), integers(*[1] * 4000)),
    }
    files = {key: b"\x80\x02}" + words("style.1.weight") + body + b"s." for key, body in bodies.items()}
    packed = {f"zip-{key}": archive(files[key]) for key in bodies}
    packed |= {f"old-{key}": old(files[key]) for key in bodies}
    files |= packed
    noise = random.Random(1)
    files |= {f"random-{i}": b"\x80\x04" + noise.randbytes(3000) for i in range(4)}
    files |= {
        "empty": b"",
        "protocol-0": b"cos\nsystem\n(S'touch " + ran.encode() + b"'\ntR.",
        "only-stop": b"\x80\x04.",
        "no-stop": b"\x80\x04}",
    }
    return files
