"""Every kind of network goes the whole way: random weights, bundle, both backends, parity, a process without PyTorch."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from small_networks import OTHERS

import anycost
from anycost.errors import BundleError, InputError
from anycost.export.build import Plan, build
from anycost.export.network_form import bindings_of, static
from anycost.networks.registry import BY_NAME, KINDS
from anycost.runtime.samples import inputs_of
from anycost.weights.random_init import random_network

BACKENDS = ["onnxruntime", "openvino"]
# Two trunks of a ResNet and an Inception take a minute on two cores; a tagger is a longer one of the same blocks.
LARGE = {"attributes", "tagger", "inception", "context-encoder-256"}


@pytest.fixture(scope="module")
def networks():
    return {
        kind.name: random_network(kind.name, 0, **OTHERS.get(kind.name, {})) for kind in KINDS if kind.name not in LARGE
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, networks):
    folder = tmp_path_factory.mktemp("networks") / "bundle"
    build(None, Plan("networks", [], BACKENDS, networks=networks), folder)
    return folder


def test_every_part_has_an_engine_for_every_backend_and_passes(bundle, networks):
    manifest = anycost.open(bundle).bundle.manifest
    assert manifest.generator is None and [net.name for net in manifest.networks] == list(networks)
    parts = [part.name for network in manifest.networks for part in network.parts]
    assert [engine.name for engine in manifest.engines] == [
        f"{part}/{backend}" for part in parts for backend in BACKENDS
    ]
    # Float32 sums in another order: 100 to 140 dB is seen, 80 is the bound of a build.
    assert min(engine.parity.psnr_db for engine in manifest.engines) > 90


@pytest.mark.parametrize("batch", [1, 3, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_engines_agree_with_the_reference_for_any_batch(bundle, networks, backend, batch):
    """Other samples than those of the build. A batch of 3 is one group of a minibatch's deviation, 4 is too, 8 would be two."""
    runtime = anycost.open(bundle)
    for name in ("multires-discriminator", "gans-n-roses", "mlp-gan", "transgan", "cyclegan", "stylegan1"):
        record = runtime.bundle.network(BY_NAME[name].name)
        module = networks[name].module()
        loaded = runtime.network(name)
        loaded._backend = backend
        for part in BY_NAME[name].parts(module)[:2]:
            inputs = {k: x[::-1].copy() for k, x in inputs_of(record.part(part.name), batch).items()}
            with torch.no_grad():
                expected = part.run(module, *[torch.from_numpy(x) for x in inputs.values()])
            expected = expected if isinstance(expected, tuple) else (expected,)
            found = loaded.run(part.name, inputs)
            for port, reference in zip(part.outputs, expected, strict=True):
                # 1e-4 of the largest value; a wrong group of images or a swapped axis is far above it.
                assert np.abs(found[port.name] - reference.numpy()).max() <= 1e-4 * reference.abs().max()


WITHOUT_TORCH = """
import json, sys
for name in ("torch", "onnx", "sklearn", "anycost.networks", "anycost.export", "anycost.weights"):
    sys.modules[name] = None
import anycost
runtime = anycost.open(sys.argv[1])
checks = runtime.verify()
print(json.dumps({check.engine: check.passed for check in checks}))
"""


def test_verify_in_another_process_and_folder_without_pytorch(bundle, tmp_path):
    moved = tmp_path / "moved"
    bundle.rename(moved)
    try:
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, str(moved)], capture_output=True, text=True, check=True, cwd=tmp_path
        )
        passed = json.loads(done.stdout)
        assert len(passed) > 40 and all(passed.values())
    finally:
        moved.rename(bundle)


def test_weights_are_there_once(bundle, networks):
    """Graphs, FIR kernels and batch norm's scales are small beside the weights, which only the weights' folder has."""
    engines = sum(path.stat().st_size for path in bundle.glob("engines/*/*/*"))
    weights = sum(path.stat().st_size for path in bundle.glob("weights/*"))
    assert weights > 4 * sum(t.numel() for n in networks.values() for t in n.tensors.values())
    assert engines < 0.1 * weights


def test_a_second_build_changes_nothing(bundle, networks):
    before = {
        path: path.stat().st_mtime_ns for path in bundle.rglob("*") if path.is_file() and path.name != "manifest.json"
    }
    build(None, Plan("networks", [], BACKENDS, networks=networks), bundle)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_static_form_is_the_same_function(kind):
    """Float64: what differs is only the order of operations, so 1e-9 of the range is a tight bound."""
    if kind.name in LARGE:
        pytest.skip("the same layers as the others")
    torch.manual_seed(1)
    network = random_network(kind.name, 1, **OTHERS.get(kind.name, {})).module().double()
    form = static(network).double()
    state = network.state_dict()
    for name, binding in bindings_of(form).items():
        assert binding.source in state
        made = binding.apply(state[binding.source])
        assert torch.allclose(made, form.state_dict()[name], rtol=1e-6)
    for part in kind.parts(network)[:2]:
        inputs = [torch.randn(2, *port.shape, dtype=torch.float64) for port in part.inputs]
        with torch.no_grad():
            expected, found = part.run(network, *inputs), part.run(form, *inputs)
        for x, y in zip(_listed(expected), _listed(found), strict=True):
            # Constants are float32 products, so 1e-6 of the range.
            assert (x - y).abs().max() <= 1e-5 * x.abs().max()


def _listed(found):
    return found if isinstance(found, tuple) else (found,)


def test_wrong_inputs_and_unknown_networks_are_told(bundle):
    runtime = anycost.open(bundle)
    with pytest.raises(BundleError, match="no network of kind tagger"):
        runtime.network("tagger")
    with pytest.raises(BundleError, match="no elastic generator"):
        runtime.generate(0)
    network = runtime.network("mlp-gan")
    with pytest.raises(InputError, match=r"\[N, 64\]"):
        network.run("", {"z": np.zeros((2, 63))})
    with pytest.raises(InputError, match="needs the input z"):
        network.run("", {"x": np.zeros((2, 64))})
    with pytest.raises(InputError, match="NaN"):
        network.run("", {"z": np.full((1, 64), np.nan)})
    with pytest.raises(InputError, match=r"shape \[0, 64\]"):
        network.run("", {"z": np.zeros((0, 64))})
