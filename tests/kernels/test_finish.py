"""The pass that finishes a convolution, in Triton's interpreter against the plain reference in float64."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import TARGETS, assert_compiles, assert_near

from anycost.kernels.call import Slot, columns, run
from anycost.kernels.upfirdn import reference
from anycost.kernels.upfirdn.launch import FINISH, FINISH_CONFIGS, FinishConfig, finish
from anycost.kernels.upfirdn.work import finish_work

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
OPTIONAL = ("taps", "demodulation", "noise", "strength", "bias", "next_style")


def make(n, height, width, channels, dtype, names=OPTIONAL, parts=1, shared_noise=True, seed=0):
    """y, out and the named operands of the given sizes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    border = int("taps" in names)
    image = (height + border, width + border, channels)
    y = normal(n, *image).to(dtype) if parts == 1 else normal(n, parts, *image)
    given = {
        "taps": normal(4, 4),
        "demodulation": normal(n, channels),
        "noise": normal(1 if shared_noise else n, height, width).to(dtype),
        "strength": normal(1),
        "bias": normal(channels),
        "next_style": normal(n, channels),
    }
    return y, torch.full((n, height, width, channels), torch.nan, dtype=dtype), {name: given[name] for name in names}


def check(y, out, operands, dtype, **options):
    run(finish(y, out, **operands, **options))
    options.pop("config", None)
    doubles = {name: value.double() for name, value in operands.items()}
    assert_near(out, reference.finish(y.double(), **doubles, **options), dtype)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_operands(data):
    dtype, parts = data.draw(st.sampled_from(DTYPES)), data.draw(st.sampled_from([1, 1, 2, 5]))
    n, height, width = (data.draw(st.integers(1, high)) for high in (2, 9, 9))
    channels = data.draw(st.integers(1, 40))
    names = data.draw(st.lists(st.sampled_from(OPTIONAL), unique=True))
    seed, shared = data.draw(st.integers(0, 99)), data.draw(st.booleans())
    y, out, operands = make(n, height, width, channels, dtype, names, parts, shared, seed)
    config = FinishConfig(elements=64, channels=16, rows=data.draw(st.sampled_from([1, 2, 4])))
    check(y, out, operands, dtype, activate=data.draw(st.booleans()), parts=parts, config=config)


@pytest.mark.parametrize("config", FINISH_CONFIGS)
@pytest.mark.parametrize("taps", [True, False])
def test_configs_agree(config, taps):
    names = OPTIONAL if taps else OPTIONAL[1:]
    y, out, operands = make(2, 16, 13, 40, torch.float16, names)
    check(y, out, operands, torch.float16, config=config)


def test_configs_sum_in_the_same_order():
    """What autotuning picks does not change a bit of the image."""
    y, out, operands = make(1, 9, 9, 40, torch.float32)
    results = []
    for config in FINISH_CONFIGS:
        run(finish(y, out, **operands, config=config))
        results.append(out.clone())
    assert all(torch.equal(results[0], result) for result in results[1:])


def test_float32_noise_beside_half_activations():
    y, out, operands = make(2, 5, 6, 17, torch.float16)
    operands["noise"] = operands["noise"].float()
    check(y, out, operands, torch.float16)


def test_rows_within_a_larger_buffer():
    """Styles and demodulation of all layers lie side by side."""
    y, out, operands = make(3, 4, 4, 16, torch.float32)
    for name in ("demodulation", "next_style"):
        everything = torch.full((3, 50), torch.nan)
        everything[:, 7:23] = operands[name]
        operands[name] = columns(everything, 7, 16)
    check(y, out, operands, torch.float32)


def test_shared_input():
    y, out, operands = make(3, 4, 4, 16, torch.float32)
    check(y[:1], out, operands, torch.float32)


def slots(height=32, channels=64, dtype=torch.float16, n=1, parts=1, taps=True, config=FINISH):
    size = height + taps
    y = Slot("y", (n, size, size, channels), dtype)
    if parts > 1:
        y = Slot("y", (n, parts, size, size, channels), torch.float32)
    styles = Slot("styles", (n, 1024), torch.float32)
    return finish(
        y,
        Slot("out", (n, height, height, channels), dtype),
        taps=Slot("taps", (4, 4), torch.float32, shared=True) if taps else None,
        demodulation=columns(styles, 16, channels),
        noise=Slot("noise", (1, height, height), torch.float32, shared=True),
        strength=Slot("strength", (1,), torch.float32, shared=True),
        bias=Slot("bias", (channels,), torch.float32, shared=True),
        next_style=columns(styles, 256, channels),
        parts=parts,
        config=config,
    )


def test_batch_is_the_last_axis_of_the_grid():
    one, five = slots(), slots(n=5)
    assert (*one.grid[:2], 5) == five.grid
    assert (one.constants, one.aligned, one.signature()) == (five.constants, five.aligned, five.signature())
    integers = [{k: v for k, v in call.arguments.items() if isinstance(v, int)} for call in (one, five)]
    assert integers[0] == integers[1]
    assert integers[0]["demodulation_stride"] == 1024
    assert integers[0]["noise_stride"] == 0


@pytest.mark.parametrize(("sm", "dtype"), TARGETS)
@pytest.mark.parametrize("parts", [1, 2])
def test_compiles(sm, dtype, parts):
    made = assert_compiles(slots(dtype=dtype, parts=parts), sm)
    loads = [line for line in made.asm["ptx"].splitlines() if "ld.global" in line]
    # 16 bytes at a time: eight channels in half precision.
    assert any(".v4.b32" in line for line in loads)


@pytest.mark.parametrize("config", FINISH_CONFIGS)
@pytest.mark.parametrize(("taps", "parts"), [(True, 1), (True, 2), (False, 1), (False, 4)])
def test_no_register_is_spilled(config, taps, parts, tmp_path):
    made = assert_compiles(slots(256, 64, taps=taps, parts=parts, config=config), 86)
    assert spilled(made.asm["ptx"], tmp_path) == 0


def spilled(ptx: str, folder: Path) -> int:
    """Bytes of registers that the assembler had to put in memory."""
    (folder / "kernel.ptx").write_text(ptx)
    target = re.search(r"\.target (\w+)", ptx)[1]
    command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={target}", "kernel.ptx", "-o", "kernel.cubin"]
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stderr
    return int(re.search(r"(\d+) bytes spill stores", said)[1])


@pytest.mark.parametrize("rows", [1, 4])
def test_every_input_row_is_read_four_times(rows):
    """And not four times for each of the four output rows that it is part of: bias, demodulation and next style come on top."""
    ptx = assert_compiles(slots(256, 64, config=FinishConfig(rows=rows)), 90).asm["ptx"]
    wide = sum("ld.global.v4.b32" in line for line in ptx.splitlines())
    assert wide == 4 * (rows + 3) + 3 * 2


def test_work():
    work = finish_work((1, 1024, 1024, 32), taps=True)
    image = 1024 * 1024 * 32 * 2
    assert work.written == image
    assert work.read == 1025 * 1025 * 32 * 2 + 1024 * 1024 * 4 + 2 * 32 * 4 + 64
    # Two images of a tensor, 64 MB each, at 4.8 TB/s.
    assert work.floor_us(4.8e12, 67e12) == pytest.approx(2 * image / 4.8e6, rel=0.04)


def test_mistakes_are_named():
    y, out, operands = make(2, 4, 4, 8, torch.float16)
    with pytest.raises(ValueError, match=r"y has shape \[2, 5, 5, 8\], expected \[1 or 2, 4, 4, 8\]"):
        finish(y, out)
    with pytest.raises(ValueError, match="y is float16, expected float32"):
        finish(y[:, None].expand(-1, 2, -1, -1, -1), out, taps=operands["taps"], parts=2)
    with pytest.raises(ValueError, match="bias has shape"):
        finish(y, out, taps=operands["taps"], bias=torch.ones(9))


def test_images_of_more_than_2_31_elements_together():
    """Offsets of images are 64-bit; only one image has to fit 32 bits."""
    assert slots(1024, 512, n=8).grid[2] == 8
    with pytest.raises(ValueError, match="use a smaller one"):
        slots(4096, 512)
