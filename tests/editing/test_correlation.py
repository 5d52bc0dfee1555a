"""Attribute correlation and consistency against figures worked out by hand; the table and the picture of them."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from anycost.editing.correlation import consistency, correlation, heat_map, table
from anycost.editing.directions import Directions
from anycost.errors import InputError

NAMES = ("smiling", "young", "wavy hair")
MATRIX = np.array([[1, -0.5, 0.001], [-0.5, 1, -0.001], [0.001, -0.001, 1]])


def test_correlation_is_the_cosine():
    matrix = correlation(Directions.of({"a": [1, 0, 0], "b": [3, 4, 0], "c": [0, -1, 0], "d": [0, 0, 5]}))
    expected = [[1, 0.6, 0, 0], [0.6, 1, -0.8, 0], [0, -0.8, 1, 0], [0, 0, 0, 1]]
    assert_allclose(matrix, expected, atol=1e-7)


@given(st.integers(0, 1000), st.integers(1, 8), st.integers(1, 16))
def test_correlation_is_that_of_numpy_and_symmetric(seed, count, style_dim):
    rows = np.random.RandomState(seed).standard_normal((count, style_dim))
    matrix = correlation(Directions.of({str(i): row for i, row in enumerate(rows)}))
    assert_array_equal(matrix, matrix.T)
    assert_array_equal(np.diag(matrix), 1)
    assert (np.abs(matrix) <= 1).all()
    # A vector and its negative have mean 0 together, so that Pearson's coefficient of these is the cosine.
    assert_allclose(matrix, np.corrcoef(np.hstack([rows, -rows])), atol=1e-6)


def test_consistency_counts_equal_answers():
    full = np.array([[1.0, -1], [2, 3], [-1, 0], [0.5, 1]])
    subnet = np.array([[0.1, -9], [-2, 3], [-1, -1], [0.5, -1]])
    share, mean = consistency(full, subnet)
    assert_array_equal(share, [0.75, 0.75])
    assert mean == 0.75
    pairs = [np.stack([-scores / 2, scores / 2], axis=2) + 7 for scores in (full, subnet)]
    assert_array_equal(consistency(*pairs)[0], share)
    assert consistency(full, full)[1] == 1
    assert consistency(full + 0.01, -full - 0.01)[1] == 0


@pytest.mark.parametrize(
    ("full", "subnet"),
    [
        (np.ones((2, 3)), np.ones((2, 4))),
        (np.ones(3), np.ones(3)),
        (np.ones((0, 3)), np.ones((0, 3))),
        (np.ones((2, 3, 4)), np.ones((2, 3, 4))),
        (np.ones((2, 3)), np.full((2, 3), np.nan)),
    ],
)
def test_consistency_refuses(full, subnet):
    with pytest.raises(InputError):
        consistency(full, subnet)


def test_the_table_lines_up():
    lines = table(NAMES, MATRIX).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 5
    assert [cell.strip() for cell in lines[2].split("|")] == ["", "smiling", "1.00", "-0.50", "0.00", ""]
    assert "-0.00" not in table(NAMES, MATRIX)
    assert r"a\|b" in table(["a|b"], np.ones((1, 1)))


def test_the_heat_map_shows_signs_by_colour(tmp_path):
    heat_map(NAMES, MATRIX, tmp_path / "a.png")
    heat_map(NAMES, MATRIX, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red, blue = pixels[..., 0], pixels[..., 2]
    assert (red - blue > 50).mean() > 0.08 and (blue - red > 50).mean() > 0.05  # the diagonal; the two cells at -0.5
    edge = np.concatenate([pixels[:8].reshape(-1), pixels[-8:].reshape(-1), pixels[:, :8].reshape(-1)])
    assert (edge == 255).all()  # nothing is cut off


@pytest.mark.parametrize("names", [["a"], ["mỉm cười", "$x^2$"], [f"a long name of number {i}" for i in range(20)]])
def test_heat_maps_of_other_names(tmp_path, names):
    heat_map(names, np.eye(len(names)), tmp_path / "a.png", title="a title that is wider than the matrix of few names")
    with Image.open(tmp_path / "a.png") as image:
        edge = np.asarray(image.convert("RGB"))[:, [0, 1, 2, -3, -2, -1]]
    assert (edge == 255).all()


@pytest.mark.parametrize("draw", [table, lambda names, matrix: heat_map(names, matrix, "unused.png")])
@pytest.mark.parametrize("matrix", [np.ones((2, 2)), np.ones(3), np.full((3, 3), np.nan)])
def test_matrices_refused(draw, matrix):
    with pytest.raises(InputError):
        draw(NAMES, matrix)


def test_heat_map_refuses(tmp_path):
    with pytest.raises(InputError, match="choose some"):
        heat_map([str(i) for i in range(61)], np.eye(61), tmp_path / "a.png")
    with pytest.raises(InputError, match="cannot be written"):
        heat_map(NAMES, MATRIX, tmp_path / "missing" / "a.png")


def test_applying_and_measuring_import_neither_pytorch_nor_scikit_learn():
    code = (
        "import sys, anycost.editing.apply, anycost.editing.correlation, anycost.editing.find, anycost.editing.boundaries;"
        "print([m for m in ('torch', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
