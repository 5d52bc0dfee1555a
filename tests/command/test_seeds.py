import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycost.errors import InputError
from anycost.seeds import parse_seeds


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [3]), ("0-3", [0, 1, 2, 3]), ("1, 5,20-22", [1, 5, 20, 21, 22]), ("7-7", [7])]
)
def test_forms(text, seeds):
    assert parse_seeds(text) == seeds


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_lists_come_back(seeds):
    assert parse_seeds(",".join(map(str, seeds))) == seeds


@given(st.text(max_size=20))
def test_any_text_is_seeds_or_refused(text):
    with contextlib.suppress(InputError):
        assert all(0 <= seed < 2**32 for seed in parse_seeds(text))
