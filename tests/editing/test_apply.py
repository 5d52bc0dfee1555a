"""Editing is linear in the values, adds up, changes only its rows and never its argument."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from anycost.editing.apply import check_value, edit, parse_values
from anycost.editing.directions import Directions
from anycost.errors import InputError

STATE = np.random.RandomState(0)
DIRECTIONS = Directions.of({name: STATE.standard_normal(8) for name in ("smiling", "young", "wavy hair")})
W_PLUS = STATE.standard_normal((3, 18, 8)).astype(np.float32)
VALUES = st.dictionaries(st.sampled_from(DIRECTIONS.names), st.floats(-100, 100))


def test_the_published_rule():
    edited = edit(W_PLUS, DIRECTIONS, {"smiling": 60, "young": -20})
    expected = W_PLUS.copy()
    expected[:, :12] += 0.36 * DIRECTIONS["smiling"] - 0.12 * DIRECTIONS["young"]
    assert edited.dtype == np.float32
    assert_allclose(edited, expected, atol=1e-6)
    step = edit(W_PLUS, DIRECTIONS, {"wavy hair": 100})[:, 0] - W_PLUS[:, 0]
    assert_allclose(np.linalg.norm(step, axis=1), 0.6, atol=1e-6)


@given(VALUES, VALUES, st.sets(st.integers(0, 25)))
def test_edits_add_up_and_leave_the_other_rows_alone(first, second, rows):
    before = W_PLUS.copy()
    once = edit(W_PLUS, DIRECTIONS, first, rows)
    twice = edit(once, DIRECTIONS, second, rows)
    assert_array_equal(W_PLUS, before)
    total = edit(edit(W_PLUS, DIRECTIONS, second, rows), DIRECTIONS, first, rows)
    assert_allclose(twice, total, atol=1e-6)
    halves = {name: value / 2 for name, value in first.items()}
    assert_allclose(edit(edit(W_PLUS, DIRECTIONS, halves, rows), DIRECTIONS, halves, rows), once, atol=1e-6)
    back = {name: -value for name, value in first.items()}
    assert_allclose(edit(once, DIRECTIONS, back, rows), W_PLUS, atol=1e-6)
    others = [row for row in range(18) if row not in rows]
    assert_array_equal(twice[:, others], W_PLUS[:, others])


@given(VALUES)
def test_one_code_does_not_matter_to_another(values):
    assert_array_equal(edit(W_PLUS, DIRECTIONS, values)[1:2], edit(W_PLUS[1:2], DIRECTIONS, values))


def test_nothing_asked_for_is_a_copy_of_the_same_codes():
    for values in ({}, {"young": 0.0}, {"young": -0.0, "smiling": 0}):
        same = edit(W_PLUS, DIRECTIONS, values)
        assert_array_equal(same, W_PLUS)
        assert not np.shares_memory(same, W_PLUS)


def test_a_small_generator_has_fewer_rows():
    small = edit(W_PLUS[:, :6], DIRECTIONS, {"young": 50})
    assert_array_equal(small, edit(W_PLUS, DIRECTIONS, {"young": 50})[:, :6])
    assert_array_equal(edit(W_PLUS, DIRECTIONS, {"young": 50}, [40]), W_PLUS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": {"age": 1}}, "unknown direction 'age': the known ones are smiling, young, wavy hair"),
        ({"values": {"young": 100.5}}, "young=100.5 is outside -100..100"),
        ({"values": {"young": float("nan")}}, "young=nan is outside"),
        ({"values": {"young": float("-inf")}}, "young=-inf is outside"),
        ({"rows": [-1, 2]}, "row -1"),
        ({"scale": float("nan")}, "scale nan"),
        ({"w_plus": W_PLUS[0]}, r"float \[N, n_style, 8\] was expected"),
        ({"w_plus": W_PLUS[..., :7]}, r"float \[N, n_style, 8\] was expected"),
        ({"w_plus": W_PLUS.astype(np.int32)}, "int32"),
        ({"w_plus": W_PLUS * np.float32("nan")}, "NaN"),
    ],
)
def test_refused(change, message):
    arguments = {"w_plus": W_PLUS, "directions": DIRECTIONS, "values": {"young": 1}} | change
    with pytest.raises(InputError, match=message):
        edit(**arguments)


def test_parse_values():
    assert parse_values("smiling=60,young=-20") == {"smiling": 60, "young": -20}
    assert parse_values(" wavy hair = 1e1 ") == {"wavy hair": 10}


@pytest.mark.parametrize(
    "text", ["", ",", "young", "young=", "=5", "young=1,young=2", "young=nan", "young=101", "a=1,"]
)
def test_parse_values_refuses(text):
    with pytest.raises(InputError):
        parse_values(text)


@given(st.text(max_size=30))
def test_any_text_is_values_or_refused_in_one_line(text):
    try:
        values = parse_values(text)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert values and all(check_value(name, value) == value for name, value in values.items())
