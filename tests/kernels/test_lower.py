import numpy as np
import pytest
import torch
from small_kernels import ENTERING, LEAVING, binding, draft, product_call

from anycost.errors import BuildError
from anycost.kernels.call import Slot
from anycost.kernels.lower import Step, lower, pack
from anycost.runtime.cuda.program import Part, read_images, read_program

TARGETS = ["sm_90", "sm_86"]


@pytest.fixture(scope="module")
def lowered():
    return lower(draft(), TARGETS)


def test_regions_are_what_the_slots_say(lowered):
    found = {r.name: (r.kind, r.dtype, r.shape, r.shared) for r in lowered.program.regions}
    assert found == {
        "x": ("input", "float32", (1, ENTERING), False),
        "y": ("output", "float32", (1, LEAVING), False),
        "w": ("weight", "float32", (ENTERING * LEAVING,), True),
        "small": ("weight", "float32", (64 + LEAVING,), True),
        "one": ("table", "float32", (1,), True),
        "two": ("table", "float32", (1,), True),
        "zeros": ("table", "float32", (LEAVING,), True),
        "w2": ("prepared", "float32", (ENTERING, LEAVING), True),
        "h": ("scratch", "float32", (1, LEAVING), False),
        "wide": ("scratch", "float32", (1, LEAVING), False),
        "g": ("scratch", "float32", (1, LEAVING), False),
    }
    assert lowered.program.targets == ("sm_86", "sm_90")


def test_launches_name_regions_and_offsets(lowered):
    step = lowered.program.steps[2]
    (launch,) = step.choices[0].launches
    places = [(a.region, a.offset) if not isinstance(a, int) else a for a in launch.arguments]
    assert places == [("h", 0), ("small", 64), ("two", 0), ("y", 0), LEAVING, LEAVING]
    assert lowered.calls[launch.kernel].name == "finish" and launch.grid == (1, 1, 1)


def test_equal_kernels_are_compiled_once(lowered):
    # The product with w and that with its double are one; that to half precision would be another.
    assert [kernel.symbol for kernel in lowered.program.kernels] == ["twice", "product", "finish"]
    assert all(set(kernel.images) == set(TARGETS) for kernel in lowered.program.kernels)
    assert [step.choices[0].launches[0].kernel for step in lowered.program.steps] == [1, 1, 2]


def test_what_is_written_is_read(lowered, tmp_path):
    lowered.write(tmp_path)
    program = read_program(tmp_path)
    assert program == lowered.program and read_images(program, tmp_path) == dict(lowered.images)


def test_a_build_gives_the_same_bytes(lowered, tmp_path):
    for name, made in (("a", lowered), ("b", lower(draft(), TARGETS[::-1]))):
        (tmp_path / name).mkdir()
        made.write(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        content = file.read_bytes()
        assert content == (tmp_path / "b" / file.name).read_bytes()
    assert str(tmp_path.anchor).encode() and all(b"small_kernels" not in image for image in lowered.images.values())


def test_parts_are_packed_at_addresses_that_vectors_take():
    half = Part(binding=binding("w", (3,), "float16"), shape=(3,))
    assert [part.offset for part in pack([half, half])] == [0, 128]


def slot(name, shape=(1, LEAVING), dtype=torch.float32, **more):
    return Slot(name, shape, dtype, **more)


X, W = slot("x", (1, ENTERING)), slot("w", (ENTERING, LEAVING), shared=True)
BAD = {
    r"argument x of kernel product is a tensor: a plan takes slots": product_call(
        torch.zeros(1, ENTERING), W, slot("h")
    ),
    r"slot h \[1, 11\] of torch.float32 does not fit h \[1, 10\] of float32": product_call(X, W, slot("h", (1, 11))),
    r"slot h \[1, 10\] of torch.float16 does not fit h": product_call(X, W, slot("h", dtype=torch.float16)),
    "slot w is for each image, w is not": product_call(X, slot("w", (ENTERING, LEAVING)), slot("h")),
    "view v is a view of none, which nothing makes": product_call(
        X, slot("v", (ENTERING, LEAVING), shared=True, base="none"), slot("h")
    ),
    r"slot v \[20, 10\] of torch.float32 does not fit w": product_call(
        X, slot("v", (ENTERING, LEAVING), shared=True, base="w", offset=1), slot("h")
    ),
    "images of slot v lie 12 elements apart, those of h 10": product_call(
        slot("v", (1, 5), base="h", row=12), W, slot("g")
    ),
    "slot h is of torch.uint8: regions are float32": product_call(X, W, slot("h", dtype=torch.uint8)),
}


@pytest.mark.parametrize("said", list(BAD))
def test_slots_that_contradict_each_other_are_refused(said):
    good = draft()
    steps = [Step("bad", [("", [BAD[said]])]), *good.steps]
    if "does not fit h" in said:
        steps = [*good.steps, steps[0]]
    with pytest.raises(BuildError, match=said.replace("view v", "slot v")):
        lower(draft(steps=steps), TARGETS)


def test_names_are_unique():
    with pytest.raises(BuildError, match="have one name"):
        lower(draft(tables={"x": np.ones(1, np.float32)}), TARGETS)


def test_alternatives_leave_the_same():
    steps = [
        Step("a", [("1", [product_call(X, W, slot("h"))]), ("2", [product_call(X, W, slot("g"))])]),
        draft().steps[2],
    ]
    with pytest.raises(BuildError, match=r"choice '2' of step 'a' leaves out \['h'\]"):
        lower(draft(steps=steps, prepare=[]), TARGETS)


def test_choices_that_no_target_has_room_for_are_left_out():
    compiler = _greedy(lambda call, target: call.constants["B"] == 8)
    steps = list(draft().steps)
    steps[0] = Step("product", [("big", [product_call(X, W, slot("h"), 8)]), *steps[0].choices])
    found = lower(draft(steps=steps), TARGETS, compiler=compiler)
    assert [choice.label for choice in found.program.steps[0].choices] == ["one", "wide"]
    with pytest.raises(BuildError, match="no target has the shared memory that step product needs"):
        lower(draft(steps=[Step("product", steps[0].choices[:1]), *steps[1:]]), TARGETS, compiler=compiler)


def test_choices_that_one_target_has_no_room_for():
    def large(call, target):
        return call.constants["B"] == 8 and target == "sm_86"

    steps = list(draft().steps)
    steps[0] = Step("product", [("big", [product_call(X, W, slot("h"), 8)]), *steps[0].choices])
    program = lower(draft(steps=steps), TARGETS, compiler=_greedy(large)).program
    labels = {t: [c.label for c in program.available(program.steps[0], t, 99 << 10)] for t in TARGETS}
    assert labels == {"sm_90": ["big", "one", "wide"], "sm_86": ["one", "wide"]}
    steps[0] = Step("product", steps[0].choices[:1])
    with pytest.raises(BuildError, match="step 'product' has no choice for sm_86"):
        lower(draft(steps=steps), TARGETS, compiler=_greedy(large))


def _greedy(large):
    """``compile_calls`` without a compiler; some kernels need more shared memory than any target has."""
    from anycost.kernels.compile import Compiled, kernel_key

    def compile_calls(calls, targets, threads=None):
        return {
            (kernel_key(call), target): Compiled(
                call.name, f"{call.name}{target}".encode(), large(call, target) << 20, 4
            )
            for call in calls
            for target in targets
        }

    return compile_calls
