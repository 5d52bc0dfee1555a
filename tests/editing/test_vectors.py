"""Conditional projection, opposing pairs and SeFa: properties, and independent decompositions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from anycost.editing import find
from anycost.editing.directions import unit
from anycost.errors import InputError


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(shape)


@given(st.integers(0, 10_000), st.integers(0, 5), st.floats(0, 0.99))
def test_a_conditioned_direction_is_orthogonal_to_every_condition(seed, count, alike):
    n, *others = unit_rows(alike * random(seed, 1, 16) + (1 - alike) * random(seed + 1, count + 1, 16))
    result = find.condition(n, others)
    assert np.linalg.norm(result) == pytest.approx(1, abs=1e-6)
    # float32 holds a coordinate to 6e-8; where little of n is left, that is the little's error too.
    assert all(abs(result @ other) < 1e-5 for other in others)
    assert result @ n > 0


def unit_rows(rows):
    return [unit(row) for row in rows]


def test_one_condition_is_the_formula_and_two_are_interfacegans():
    n, a, b = (unit(row).astype(np.float64) for row in random(4, 3, 32))
    assert_allclose(find.condition(n, [a]), unit(n - (n @ a) * a), atol=1e-6)
    # The closed form of InterFaceGAN's published code for two conditions.
    cosine = a @ b
    alpha = (n @ a - (n @ b) * cosine) / (1 - cosine**2)
    beta = (n @ b - (n @ a) * cosine) / (1 - cosine**2)
    assert_allclose(find.condition(n, [a, b]), unit(n - alpha * a - beta * b), atol=1e-6)
    assert_allclose(find.condition(n, [a, b, a + b, -a]), find.condition(n, [a, b]), atol=1e-6)
    assert_array_equal(find.condition(n, []), unit(n))


def test_nothing_left_is_an_error():
    a, b = random(5, 2, 8)
    with pytest.raises(InputError, match="nothing is left"):
        find.condition(a, [b, a - 2 * b])
    with pytest.raises(InputError, match="nothing is left"):
        find.opposing(a, 3 * a)
    with pytest.raises(InputError, match="one style_dim"):
        find.condition(a, [b[:5]])
    with pytest.raises(InputError, match="one style_dim"):
        find.opposing(a, b[:5])
    with pytest.raises(InputError, match="points nowhere"):
        find.condition(a, [0 * b])


def test_opposing_pairs_cancel_what_they_share():
    opened, closed, shared = np.linalg.qr(random(6, 16, 3))[0].T
    pair = find.opposing(unit(opened + shared), unit(closed + shared))
    assert abs(pair @ shared) < 1e-6
    assert pair @ opened == pytest.approx(np.sqrt(0.5), abs=1e-6)
    assert_allclose(pair, -find.opposing(unit(closed + shared), unit(opened + shared)), atol=1e-7)


WEIGHTS = [random(10 + i, rows, 16) * (i + 1) for i, rows in enumerate((24, 24, 12, 3))]


@pytest.mark.parametrize(
    ("layers", "stacked"),
    [(None, [0, 1, 2, 3]), (slice(1, 3), [1, 2]), ([2, 0, 2], [0, 2]), ([3], [3]), (slice(-1, None), [3])],
)
def test_sefa_is_the_top_eigenvectors_of_the_stacked_weights(layers, stacked):
    a = np.concatenate([WEIGHTS[i] for i in stacked])
    count = min(3, len(a))
    found = find.sefa(WEIGHTS, count, layers)
    assert found.vectors.shape == (count, 16) and found.vectors.dtype == np.float32
    values, vectors = np.linalg.eigh(a.T @ a)
    assert_allclose(found.values, values[::-1][:count], rtol=1e-9)
    assert_allclose(np.abs(np.sum(found.vectors * vectors.T[::-1][:count], axis=1)), 1, atol=1e-6)
    _, sizes, rows = np.linalg.svd(a)  # a decomposition of A itself, that never forms A^T A
    assert_allclose(found.values, sizes[:count] ** 2, rtol=1e-9)
    assert_allclose(np.abs(np.sum(found.vectors * rows[:count], axis=1)), 1, atol=1e-6)
    assert_allclose(np.linalg.norm(a @ found.vectors.T, axis=0) ** 2, found.values, rtol=1e-5)


def test_sefa_has_one_sign_whatever_the_sign_of_the_weights():
    found, negated = find.sefa(WEIGHTS, 16), find.sefa([-a for a in WEIGHTS], 16)
    assert_array_equal(found.vectors, negated.vectors)
    assert (found.vectors[np.arange(16), np.abs(found.vectors).argmax(1)] > 0).all()
    assert_allclose(found.vectors @ found.vectors.T, np.eye(16), atol=1e-6)


def test_sefa_of_few_rows_has_eigenvalues_of_0_and_never_below():
    values = find.sefa(WEIGHTS, 16, [3]).values
    assert (values >= 0).all()
    assert_allclose(values[3:], 0, atol=1e-10)


def test_sefa_with_unit_rows_ignores_their_scale():
    scales = [np.exp(random(20 + i, len(a), 1)) for i, a in enumerate(WEIGHTS)]
    expected = find.sefa(WEIGHTS, 2, unit_rows=True)
    scaled = find.sefa([a * scale for a, scale in zip(WEIGHTS, scales, strict=True)], 2, unit_rows=True)
    assert_allclose(scaled.vectors, expected.vectors, atol=1e-5)
    assert find.sefa([np.vstack([a, 0 * a]) for a in WEIGHTS], 2, unit_rows=True).values == pytest.approx(
        expected.values
    )


@pytest.mark.parametrize(
    ("weights", "count", "layers", "message"),
    [
        (WEIGHTS, 0, None, "outside 1..16"),
        (WEIGHTS, 17, None, "outside 1..16"),
        (WEIGHTS, 1, [4], "layer 4 is outside 0..3"),
        (WEIGHTS, 1, [-1], "layer -1 is outside 0..3"),
        (WEIGHTS, 1, [], "no layers"),
        (WEIGHTS, 1, slice(9, None), "no layers"),
        ([], 1, None, "no layers"),
        ([WEIGHTS[0], WEIGHTS[0][:, :5]], 1, None, "one style_dim"),
        ([WEIGHTS[0][0]], 1, None, "one style_dim"),
        ([WEIGHTS[0] * np.nan], 1, None, "NaN"),
        ([WEIGHTS[0] * 0], 1, None, "all 0"),
    ],
)
def test_sefa_refuses(weights, count, layers, message):
    with pytest.raises(InputError, match=message):
        find.sefa(weights, count, layers)
