import fake_program
import pytest
from fake_program import launch, program
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from anycost.errors import BackendError
from anycost.runtime.binding import Binding
from anycost.runtime.cuda.program import Choice, Kernel, Part, Program, Region, Step, read_images, read_program
from anycost.runtime.cuda.targets import SHARED_BYTES, best_target, capability, runs_on, shared_limit


def test_a_program_is_read_as_it_was_written(tmp_path):
    fake_program.write(tmp_path)
    found = read_program(tmp_path)
    assert found == program()
    images = read_images(found, tmp_path)
    assert images["scale-sm_90"] == b"scale-sm_90" and len(images) == 17


def test_the_same_program_is_the_same_file(tmp_path):
    files = [sorted(fake_program.write(tmp_path / name).iterdir()) for name in "ab"]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


def test_what_later_steps_read_of_a_step():
    assert [program().results(i) for i in range(2)] == [["h"], ["y"]]


def step(*launches, name="a", label="b"):
    return Step(name=name, choices=(Choice(label=label, launches=launches),))


SHIFT = program().steps[1]
X_TO_H = launch("scale", "x", "w2", "h", 6)
BAD = {
    "two regions have one name": {"regions": (*program().regions, program().regions[0])},
    r"the inputs \['z'\] are not the regions of that kind": {"inputs": ("z",)},
    "launches kernel 6 of 6": {"steps": (step(X_TO_H.model_copy(update={"kernel": 6})), SHIFT)},
    "takes region 'none', which is none": {"steps": (step(launch("scale", "none", "w2", "h", 6)), SHIFT)},
    "takes element 6 of region 'w2'": {"steps": (step(launch("scale", "x", ("w2", 6), "h", 6)), SHIFT)},
    r"has a grid of \[1, 70000, 1\]": {"steps": (step(X_TO_H.model_copy(update={"grid": (1, 70000, 1)})), SHIFT)},
    r"has a grid of \[1, 1, 40000\]": {"steps": (step(X_TO_H.model_copy(update={"grid": (1, 1, 40000)})), SHIFT)},
    "two steps have one name": {"steps": (step(X_TO_H, name="shift"), SHIFT)},
    "has choices, or takes an input or output": {"prepare": (step(launch("double", "x", "two", "w2", 6)),)},
    "nothing prepares region 'w2'": {"prepare": ()},
    "nothing writes output 'y'": {"steps": (step(X_TO_H),)},
    r"choice 'c' of step 'a' leaves out \['h'\]": {
        "steps": (
            Step(
                name="a",
                choices=(
                    Choice(label="b", launches=(X_TO_H,)),
                    Choice(label="c", launches=(launch("scale", "x", "w2", "parts", 6),)),
                ),
            ),
            SHIFT,
        )
    },
    "two choices of step 'a' have one label": {
        "steps": (Step(name="a", choices=(Choice(label="b", launches=(X_TO_H,)),) * 2), SHIFT)
    },
    "has no choice for sm_120": {"targets": ("sm_90", "sm_120")},
    "no choice for sm_86": {"steps": (step(launch("scale_parts", "x", "w2", "h", 6)), SHIFT)},
}


@pytest.mark.parametrize("said", list(BAD))
def test_inconsistent_programs_are_refused(said):
    with pytest.raises(ValidationError, match=said):
        program(**BAD[said])


W = Binding(source="w", take=(5,), shape=(5,))
REGIONS = {
    "is not shared": {"kind": "table", "values": (1.0,) * 6},
    "is not float32 with one image first": {"kind": "output", "shared": True},
    "not float32 with one": {"kind": "input", "dtype": "float16", "shape": (1, 6)},
    "content of another kind": {"kind": "table", "shared": True, "values": (1.0,)},
    "has the content of": {"kind": "scratch", "parts": (Part(binding=W, shape=(5,)),)},
    "table 'r' is of float16": {"kind": "table", "shared": True, "dtype": "float16", "values": (1.0,) * 6},
    r"\[5\] of region 'r' cannot be padded to \[4\]": {"parts": (Part(binding=W, shape=(4,)),)},
    r"cannot be padded to \[5, 1\]": {"parts": (Part(binding=W, shape=(5, 1)),)},
    "parts of region 'r' overlap at element 3": {"parts": [Part(binding=W, shape=(5,), offset=n) for n in (0, 3)]},
    "end at 7, and it at 6": {"parts": (Part(binding=W, shape=(5,), offset=2),)},
    "is int32, and a part of it float32": {"dtype": "int32", "parts": (Part(binding=W, shape=(5,)),)},
}


@pytest.mark.parametrize("said", list(REGIONS))
def test_inconsistent_regions_are_refused(said):
    fields = {"name": "r", "kind": "weight", "dtype": "float32", "shape": (6,), "shared": "parts" in REGIONS[said]}
    with pytest.raises(ValidationError, match=said):
        Region(**(fields | REGIONS[said]))


def test_kernels_need_code():
    with pytest.raises(ValidationError, match="images and shared memory of different targets"):
        Kernel(symbol="k", warps=4, images={"sm_90": "a"}, shared={"sm_86": 0})


def test_other_formats_are_refused(tmp_path):
    fake_program.write(tmp_path)
    path = tmp_path / "program.json"
    path.write_text(path.read_text().replace('"format_version":1', '"format_version":2'))
    with pytest.raises(BackendError, match=r"program.json cannot be used: .*; rebuild the bundle"):
        read_program(tmp_path)
    path.unlink()
    with pytest.raises(BackendError, match="No such file"):
        read_program(tmp_path)


def test_missing_code_is_said(tmp_path):
    fake_program.write(tmp_path)
    changed = program()
    kernel = changed.kernels[0].model_copy(update={"images": {"sm_90": "gone"}})
    with pytest.raises(BackendError, match="has no kernel gone: rebuild the bundle"):
        read_images(changed.model_copy(update={"kernels": (kernel,)}), tmp_path)


def test_binary_compatibility():
    """CUDA's rule for machine code, and Triton's use of what is particular to an architecture from sm_90 on."""
    yes = [("sm_75", "sm_75"), ("sm_80", "sm_86"), ("sm_80", "sm_89"), ("sm_86", "sm_89"), ("sm_90", "sm_90")]
    no = [("sm_86", "sm_80"), ("sm_80", "sm_87"), ("sm_90", "sm_100"), ("sm_100", "sm_103"), ("sm_120", "sm_121")]
    assert all(runs_on(*pair) for pair in yes) and not any(runs_on(*pair) for pair in no)
    assert best_target(("sm_80", "sm_86", "sm_90"), "sm_89") == "sm_86"
    assert best_target(("sm_86", "sm_90"), "sm_80") is None


@given(st.sampled_from(sorted(SHARED_BYTES)))
def test_capabilities_are_read(found):
    target = f"sm_{found[0]}{found[1]}"
    assert capability(target) == found and shared_limit(target) == SHARED_BYTES[found]
    assert runs_on(target, target) and shared_limit("sm_70") == 48 << 10


def test_a_capability_needs_its_form():
    with pytest.raises(ValueError, match="is no compute capability"):
        capability("cuda")


def test_launches_take_what_fits_a_register():
    with pytest.raises(ValidationError):
        launch("scale", "x", "w2", "h", 2**31)
    assert Program.model_validate_json(program().model_dump_json()) == program()
