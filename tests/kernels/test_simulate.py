import numpy as np
import pytest
import torch
from small_kernels import ENTERING, LEAVING, bind, draft, expected, finish_call, product_call

from anycost.errors import BackendError
from anycost.kernels.call import Slot
from anycost.kernels.lower import Step
from anycost.kernels.simulate import simulate, uncompiled

X = np.random.default_rng(5).standard_normal((3, ENTERING)).astype(np.float32)
# Half precision rounds x to w's products' sums once, h: 2^-11 and 2^-8 of values up to the largest.
BOUNDS = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}


def error(found, wanted):
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("dtype", list(BOUNDS))
@pytest.mark.parametrize("batch", [1, 3])
def test_a_program_computes_what_its_kernels_do(dtype, batch):
    lowered = uncompiled(draft(dtype))
    found = simulate(lowered, {"x": X[:batch]}, bind)
    assert list(found) == ["y"] and found["y"].shape == (batch, LEAVING) and found["y"].dtype == np.float32
    assert error(found["y"], expected(X[:batch])) < BOUNDS[dtype]


def test_any_alternative_can_be_taken():
    lowered = uncompiled(draft())
    first, other = (simulate(lowered, {"x": X}, bind, {"product": label})["y"] for label in ("one", "wide"))
    assert error(other, expected(X)) < 1e-5 and error(first, other) < 1e-5
    with pytest.raises(BackendError, match=r"step product has no choice two: it has \['one', 'wide'\]"):
        simulate(lowered, {"x": X}, bind, {"product": "two"})


def test_a_read_of_what_nothing_wrote_shows():
    """Also where the memory was another region's before."""
    made = draft()
    calls = [call for step in made.steps for _, calls in step.choices for call in calls]
    slots = {value.name: value for call in calls for value in call.arguments.values() if isinstance(value, Slot)}
    never = Slot("never", (1, LEAVING), torch.float32)
    wrong = Step("finish", [("", [finish_call(never, slots["bias"], slots["two"], slots["y"])])])
    last = Step("last", [("", [product_call(slots["x"], slots["w"], slots["h"])])])
    lowered = uncompiled(draft(steps=[made.steps[0], wrong, last]))
    assert np.isnan(simulate(lowered, {"x": X}, bind)["y"]).all()
