from hypothesis import given, settings
from hypothesis import strategies as st

from anycost.runtime.cuda.arena import ALIGNMENT, Lifetime, pack

SPANS = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 30)), max_size=40)


def made(spans):
    return [Lifetime(f"r{i}", size, min(a, b), max(a, b)) for i, (size, a, b) in enumerate(spans)]


@settings(deadline=None, max_examples=200)
@given(SPANS)
def test_what_lives_at_once_never_overlaps(spans):
    found = made(spans)
    layout = pack(found)
    assert set(layout.offsets) == {one.name for one in found}
    for i, one in enumerate(found):
        start = layout.offsets[one.name]
        assert start % ALIGNMENT == 0 and start + one.size <= layout.total
        for other in found[:i]:
            if one.meets(other) and one.size and other.size:
                at = layout.offsets[other.name]
                assert start + one.size <= at or at + other.size <= start
    live = [sum(o.size for o in found if o.first <= t <= o.last) for t in range(31)]
    assert layout.total >= layout.least >= max(live)
    assert layout.total <= sum(-(-max(o.size, 1) // ALIGNMENT) * ALIGNMENT for o in found)


@given(SPANS, st.randoms())
def test_the_order_of_regions_changes_nothing(spans, random):
    found = made(spans)
    shuffled = list(found)
    random.shuffle(shuffled)
    assert pack(found).offsets == pack(shuffled).offsets


def test_a_chain_needs_two_neighbours():
    """What a network without branches has: each activation lives from its layer to the next."""
    sizes = [100, 200, 400, 800, 1600, 3200]
    layout = pack(Lifetime(f"x{i}", 1024 * size, i, i + 1) for i, size in enumerate(sizes))
    assert layout.total == 1024 * (1600 + 3200) and layout.ratio == 1.0


def test_nothing_needs_no_memory():
    layout = pack([])
    assert (layout.offsets, layout.total, layout.ratio) == ({}, 0, 1.0)
