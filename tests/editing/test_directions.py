"""Directions as a value, their file, and published boundaries."""

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from anycost.editing.boundaries import FRIENDLY, read_boundaries
from anycost.editing.directions import Directions, load, save, unit
from anycost.errors import AnycostError, CheckpointError, InputError

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="=,"), min_size=1, max_size=20).filter(
    lambda name: name == name.strip() and name.isprintable()
)


def some(*names: str, style_dim: int = 6) -> Directions:
    state = np.random.RandomState(len(names))
    return Directions.of(
        {name: state.standard_normal(style_dim) for name in names},
        {names[0]: {"rule": "interfacegan", "accuracy": 0.975}},
    )


@given(st.lists(NAMES, min_size=1, max_size=5, unique=True), st.integers(1, 9))
def test_a_file_returns_what_was_saved(tmp_path_factory, names, style_dim):
    path = tmp_path_factory.mktemp("directions") / "d.safetensors"
    saved = some(*names, style_dim=style_dim)
    save(path, saved)
    loaded = load(path)
    assert loaded.names == saved.names and loaded.about == saved.about
    assert_array_equal(loaded.vectors, saved.vectors)
    again = path.with_name("again")
    save(again, loaded)
    assert again.read_bytes() == path.read_bytes()


def test_the_file_is_plain_safetensors_one_tensor_a_name(tmp_path):
    save(tmp_path / "d", some("young", "smiling"))
    tensors = safetensors.numpy.load_file(tmp_path / "d")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"young": (6,), "smiling": (6,)}
    assert [file.name for file in tmp_path.iterdir()] == ["d"]  # and no temporary one is left
    safetensors.numpy.save_file(tensors, tmp_path / "plain")
    assert load(tmp_path / "plain").names == ("smiling", "young")


def test_a_value_cannot_be_changed():
    vectors = np.eye(3, dtype=np.float32)
    directions = Directions(("a", "b", "c"), vectors)
    vectors[0] = 9
    assert_array_equal(directions["a"], [1, 0, 0])
    with pytest.raises(ValueError, match="read-only"):
        directions.vectors[0] = 9
    assert len(directions) == 3 and directions.style_dim == 3 and directions.about == ({}, {}, {})
    assert directions.only(["c", "a"]).names == ("c", "a")
    assert_array_equal(directions.only(["c", "a"]).vectors, np.eye(3)[[2, 0]])


@pytest.mark.parametrize("size", [1e-200, 1.0, 1e200])
def test_unit_of_any_size(size):
    assert_allclose(unit(np.array([3.0, 0, -4]) * size), [0.6, 0, -0.8], rtol=1e-6)


@pytest.mark.parametrize("name", ["", " young", "a=b", "a,b", "two\nlines", "x" * 101, "__metadata__"])
def test_names_that_would_not_fit_in_a_list_of_values(name):
    with pytest.raises(InputError, match="direction name") as caught:
        Directions((name,), np.eye(1, dtype=np.float32))
    assert "\n" not in str(caught.value)


EYE = np.eye(2, dtype=np.float32)


@pytest.mark.parametrize(
    ("names", "vectors", "message"),
    [
        ((), EYE[:0], "no directions"),
        (("a",), EYE, r"float32 \[1, style_dim\]"),
        (("a", "b"), EYE.astype(np.float64), "float64"),
        (("a", "b"), EYE[:, :0], r"\[2, 0\]"),
        (("a", "a"), EYE, "'a' is there twice"),
        (("a", "b"), EYE * 2, "'a' has length 2, not 1"),
        (("a", "b"), EYE * 0, "length 0"),
        (("a", "b"), EYE * np.float32("nan"), "'a' holds NaN"),
    ],
)
def test_values_refused(names, vectors, message):
    with pytest.raises(InputError, match=message):
        Directions(names, vectors)


def test_vectors_refused():
    for vector, message in (
        (np.zeros(3), "points nowhere"),
        (np.array([np.inf, 1]), "NaN or infinity"),
        (np.eye(2), "a vector"),
        (np.empty(0), "a vector"),
    ):
        with pytest.raises(InputError, match=message):
            Directions.of({"a": vector})
    with pytest.raises(InputError, match="one style_dim"):
        Directions.of({"a": np.ones(2), "b": np.ones(3)})
    with pytest.raises(InputError, match="no directions"):
        Directions.of({})
    with pytest.raises(InputError, match="'b', which is not a direction"):
        Directions.of({"a": np.ones(2)}, {"b": {}})
    with pytest.raises(InputError, match="facts about 1"):
        Directions(("a", "b"), EYE, ({},))


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({}, {}, "no directions"),
        ({"a": EYE}, {}, r"F32 \[2, 2\]"),
        ({"a": EYE[0].astype(np.float16)}, {}, "F16"),
        ({"a": EYE[0], "b": np.ones(1, np.float32)}, {}, "differ in style_dim"),
        ({"a": EYE[0] * 3}, {}, "length 3"),
        ({"a": EYE[0] * np.float32("nan")}, {}, "NaN"),
        ({"a": EYE[0]}, {"order": '["a","a"]'}, "twice"),
        ({"a": EYE[0]}, {"order": '["b"]'}, "other directions"),
        ({"a": EYE[0]}, {"order": "[1]"}, "other directions"),
        ({"a": EYE[0]}, {"order": '["a"'}, "metadata are damaged"),
        ({"a": EYE[0]}, {"about": "7"}, "metadata are damaged"),
        ({"a": EYE[0]}, {"about": "[" * 100_000}, "metadata are damaged"),
        ({"a": EYE[0]}, {"about": '{"a":{"rule":[1]}}'}, "neither text nor a number"),
        ({"a": EYE[0]}, {"kind": "anycost directions 2"}, "newer version"),
        ({"a=1": EYE[0]}, {}, "direction name"),
    ],
)
def test_files_refused(tmp_path, tensors, metadata, message):
    (tmp_path / "d").write_bytes(safetensors.numpy.save(tensors, metadata or None))
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path / "d")
    assert "\n" not in str(caught.value)


def test_a_name_twice_in_a_file_is_refused(tmp_path):
    part = '"a":{"dtype":"F32","shape":[1],"data_offsets":[%d,%d]}'
    header = ("{" + part % (0, 4) + "," + part % (4, 8) + "}").encode()
    (tmp_path / "d").write_bytes(struct.pack("<Q", len(header)) + header + np.ones(2, np.float32).tobytes())
    with pytest.raises(InputError):
        load(tmp_path / "d")


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_file_is_refused_in_one_line_or_read(tmp_path_factory, at, byte):
    path = tmp_path_factory.mktemp("damaged") / "d"
    save(path, some("smiling", "young"))
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    for content in (bytes(data), bytes(data[:at])):
        path.write_bytes(content)
        try:
            assert load(path).style_dim
        except InputError as error:
            assert "\n" not in str(error)


def test_paths_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "missing")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        save(tmp_path / "missing" / "d", some("a"))


def published(**changes):
    state = np.random.RandomState(0)
    keys = ["00_5_o_Clock_Shadow", *sorted(FRIENDLY)]
    rows = state.standard_normal((len(keys), 1, 512))
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    return {key: torch.from_numpy(row.astype(np.float32)) for key, row in zip(keys, rows, strict=True)} | changes


def test_published_boundaries(tmp_path):
    tensors = published()
    torch.save(tensors, tmp_path / "boundary_x.pt")
    directions = read_boundaries(tmp_path / "boundary_x.pt")
    seven = ("smiling", "young", "wavy hair", "gray hair", "blonde hair", "eyeglass", "mustache")
    assert directions.names == (*seven, "00_5_o_Clock_Shadow")
    for name, about in zip(directions.names, directions.about, strict=True):
        assert_allclose(directions[name], tensors[about["key"]][0].numpy(), atol=1e-7)
        assert FRIENDLY.get(about["key"], about["key"]) == name and about["length"] == pytest.approx(1, abs=1e-5)
    save(tmp_path / "d", directions)
    assert json.dumps(load(tmp_path / "d").about) == json.dumps([dict(sorted(a.items())) for a in directions.about])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"31_Smiling": torch.ones(2, 512)}, r"31_Smiling is float32 \[2, 512\]"),
        ({"31_Smiling": torch.ones(())}, r"\[\]"),
        ({"31_Smiling": torch.ones(1, 4, dtype=torch.int64)}, "int64"),
        ({"31_Smiling": torch.zeros(1, 512)}, "points nowhere"),
        ({"31_Smiling": torch.full((1, 4), float("nan"))}, "NaN"),
        ({"31_Smiling": torch.ones(1, 4), "39_Young": torch.ones(1, 5)}, "one style_dim"),
        ({"31_Smiling": torch.ones(1, 4), "smiling": torch.ones(1, 4)}, "two of its boundaries"),
        ({"a=b": torch.ones(1, 4)}, "direction name"),
        ({}, "state dict"),
        ([torch.ones(1, 4)], "state dict"),
    ],
)
def test_boundaries_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "b.pt")
    with pytest.raises(AnycostError, match=message) as caught:
        read_boundaries(tmp_path / "b.pt")
    assert "\n" not in str(caught.value)


def test_boundary_files_that_are_not_there_or_not_whole(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_boundaries(tmp_path / "missing.pt")
    (tmp_path / "b.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="empty"):
        read_boundaries(tmp_path / "b.pt")
