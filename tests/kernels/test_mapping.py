"""Layers of the mapping network in Triton's interpreter against the plain reference and the network itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_checks import assert_compiles, assert_near

from anycost.export.deploy import bind, mapping_bindings, static_mapping
from anycost.kernels.call import Slot, run
from anycost.kernels.mapping import reference
from anycost.kernels.mapping.launch import LINEAR, LINEAR_CONFIGS, linear
from anycost.kernels.mapping.work import linear_work


def check(n, entering, leaving, normalize, config=LINEAR, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, weight, bias = (torch.randn(s, generator=generator) for s in ((n, entering), (entering, leaving), (leaving,)))
    out = torch.full((n, leaving), torch.nan)
    run(linear(x * scale, weight, bias, out, normalize=normalize, config=config))
    expected = reference.linear(x.double() * scale, weight.double(), bias.double(), normalize=normalize)
    assert_near(out, expected)
    return out


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 3),
    entering=st.integers(1, 200),
    leaving=st.integers(1, 70),
    normalize=st.booleans(),
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_any_shape(n, entering, leaving, normalize, scale, seed):
    check(n, entering, leaving, normalize, scale=scale, seed=seed)


@pytest.mark.parametrize("config", LINEAR_CONFIGS)
@pytest.mark.parametrize("normalize", [False, True])
def test_configs(config, normalize):
    check(2, 512, 48, normalize, config)


def test_largest():
    check(1, 1024, 1024, True)


def test_the_same_each_time_and_in_any_batch():
    """An image's result does not depend on its neighbours."""
    x, weight, bias = torch.randn(3, 65), torch.randn(65, 20), torch.randn(20)
    out, alone = torch.empty(3, 20), torch.empty(1, 20)
    run(linear(x, weight, bias, out, normalize=True))
    run(linear(x[1:2].clone(), weight, bias, alone, normalize=True))
    assert torch.equal(out[1:2], alone)


def test_a_mapping_network(tiny_checkpoint):
    arch = tiny_checkpoint.arch
    tensors = bind(mapping_bindings(arch), tiny_checkpoint.tensors)
    z = torch.randn(2, arch.style_dim)
    x = z
    for i in range(1, arch.n_mlp + 1):
        out = torch.empty_like(x)
        run(linear(x, tensors[f"{i}.weight"].contiguous(), tensors[f"{i}.bias"], out, normalize=i == 1))
        x = out
    doubles = {name: tensor.double() for name, tensor in tensors.items()}
    assert_near(x, static_mapping(doubles, z.double(), arch.n_mlp))


def _call(n=1, config=LINEAR):
    x, out = Slot("x", (n, 512), torch.float32), Slot("out", (n, 512), torch.float32)
    weight, bias = (Slot(s, shape, torch.float32, shared=True) for s, shape in (("w", (512, 512)), ("b", (512,))))
    return linear(x, weight, bias, out, normalize=True, config=config)


def test_batch_is_the_last_axis_of_the_grid():
    one, five = _call(), _call(5)
    assert (*one.grid[:2], 5) == five.grid
    assert (one.constants, one.aligned) == (five.constants, five.aligned)
    assert {"entering", "leaving", "x_stride", "out_stride"} == one.aligned


@pytest.mark.parametrize("sm", [75, 80, 86, 89, 90, 120])
def test_compiles(sm):
    ptx = assert_compiles(_call(), sm).asm["ptx"]
    assert ".v4" in ptx


@pytest.mark.parametrize("config", LINEAR_CONFIGS)
def test_configs_compile(config):
    assert_compiles(_call(config=config), 90)


def test_work():
    work = linear_work(4, 512, 512)
    assert work.read == 4 * (512 * 512 + 512 + 4 * 512)
    assert work.written == 4 * 4 * 512
    # The weights set the floor, whatever the batch: 1 MiB at 4.8 TB/s.
    assert linear_work(8, 512, 512).floor_us(4.8e12, 67e12) == pytest.approx(2**20 / 4.8e6, rel=0.05)


def test_mistakes_are_named():
    x, weight, bias = torch.randn(2, 8), torch.randn(8, 4), torch.randn(4)
    with pytest.raises(ValueError, match=r"x has shape \[2, 8\], expected \[1 or 3, 8\]"):
        linear(x, weight, bias, torch.empty(3, 4), normalize=False)
    with pytest.raises(ValueError, match="the elements of weight"):
        linear(x, torch.randn(4, 8).T, bias, torch.empty(2, 4), normalize=False)
    with pytest.raises(ValueError, match="x is float16"):
        linear(x.half(), weight, bias, torch.empty(2, 4), normalize=False)
