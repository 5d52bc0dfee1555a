import numpy as np
import pytest
import torch
from deterministic import fill, golden_input

from anycost.export.deploy import (
    StaticMapping,
    StaticSynthesis,
    mapping_bindings,
    noise_bindings,
    synthesis_bindings,
)
from anycost.networks.stylegan2 import Generator
from anycost.runtime.binding import Binding

GOLDEN_FLEXIBLE = [128, 96, 64, 128, 32, 64, 96, 128, 32, 16]


@pytest.fixture(scope="module")
def generator():
    network = Generator(64, 0.25, 128).eval().requires_grad_(False)
    fill(network)
    return network


@pytest.mark.parametrize(
    ("resolution", "channels"), [(64, 1.0), (64, 0.25), (32, 0.5), (8, 0.75), (64, GOLDEN_FLEXIBLE)]
)
@pytest.mark.parametrize("stored", [True, False])
def test_equals_the_papers_formulation(generator, resolution, channels, stored):
    net = generator.subnet(resolution, channels)
    w_plus = golden_input("anycost64", "w_plus", (2, 10, 512))
    noise = generator.noise("stored" if stored else "random", net, 2)
    expected = generator.synthesis(w_plus, noise, net)
    static = StaticSynthesis(generator.arch, net, generator.state_dict(), stored_noise=stored)
    found = static(w_plus) if stored else static(w_plus, noise)
    # Equal in real arithmetic; in float32 the order of the products differs: about 1e-6 of the range.
    assert (found - expected).abs().max() <= 1e-5 * (expected.max() - expected.min())


def test_mapping_equals_the_papers_formulation(generator):
    z = golden_input("anycost64", "z", (2, 1, 512))[:, 0]
    expected = generator.mapping(z)
    found = StaticMapping(generator.arch, generator.state_dict())(z)
    assert (found - expected).abs().max() <= 1e-5 * (expected.max() - expected.min())


def test_bindings_give_numpy_what_they_give_pytorch(generator):
    net = generator.subnet(64, GOLDEN_FLEXIBLE)
    state = generator.state_dict()
    bindings = synthesis_bindings(generator.arch, net) | noise_bindings(net) | mapping_bindings(generator.arch)
    for name, binding in bindings.items():
        tensor, times = state[binding.source], state[binding.times] if binding.times else None
        by_numpy = binding.apply(tensor.numpy(), None if times is None else times.numpy())
        by_torch = binding.apply(tensor, times).numpy()
        assert by_numpy.shape == binding.shape
        assert np.allclose(by_numpy, by_torch, rtol=1e-5), name


def test_differentiable(generator):
    """The recipe trains in this form: every parameter that the sub-network uses gets a gradient."""
    from anycost.export.deploy import bind, static_synthesis
    from anycost.networks.stylegan2 import fir_kernel

    network = Generator(16, 0.0625, 32, 16, 2)
    net = network.subnet(16, 0.5)
    tensors = bind(synthesis_bindings(network.arch, net), dict(network.named_parameters()))
    image = static_synthesis(
        net, tensors, torch.randn(2, 6, 16), network.noise("random", net, 2), fir_kernel(4.0)[None, None]
    )
    image[-1].square().sum().backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if not name.startswith("style."))


def test_order_permutes_all_axes_in_both_libraries():
    values = torch.arange(1.0, 2 * 4 * 3 * 3 * 3 + 1).reshape(1, 6, 4, 3, 3)
    # The layout of the fused kernels: [tap, in, out].
    binding = Binding(source="w", take=(1, 5, 4, 3, 3), shape=(9, 4, 5), order=(0, 3, 4, 2, 1))
    expected = values[0, :5].permute(2, 3, 1, 0).reshape(9, 4, 5)
    assert torch.equal(binding.apply(values), expected)
    assert np.array_equal(binding.apply(values.numpy()), expected.numpy())
    for order in [(0, 1), (0, 1, 2, 3, 3), (0, 1, 2, 3, 5)]:
        with pytest.raises(ValueError, match="no permutation of 5 axes"):
            Binding(source="w", take=(1, 5, 4, 3, 3), shape=(9, 4, 5), order=order)
