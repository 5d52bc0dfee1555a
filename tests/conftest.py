import os
import sys
from pathlib import Path

import pytest
import torch

# Tests share the machine with each other: idle workers must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parent))
# With a process for each processor (make test), more threads would only wait for one another.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("ANYCOST_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tiny_checkpoint():
    from anycost.weights.random_init import random_checkpoint

    return random_checkpoint("tiny")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory, tiny_checkpoint):
    """A whole bundle of a 32 px generator for both backends: three sub-networks, one of them flexible. Not to be written to."""
    from anycost.export.build import Plan, build

    arch = tiny_checkpoint.arch
    nets = [
        arch.subnet(16, 0.25),
        arch.subnet(32, 0.5),
        arch.full(),
        arch.subnet(32, [48, 40, 32, 64, 24, 48, 20, 17], "odd"),
    ]
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    build(tiny_checkpoint, Plan("tiny", nets, ["onnxruntime", "openvino"]), folder)
    return folder


@pytest.fixture(scope="session")
def segmented_bundle(tmp_path_factory, tiny_checkpoint):
    """Two ratios of the same generator at 8, 16 and 32 px with segments for both backends, and a flexible sub-network without.
    Not to be written to."""
    from anycost.export.build import Plan, build

    arch = tiny_checkpoint.arch
    nets = [arch.subnet(side, ratio) for side in (8, 16, 32) for ratio in (0.5, 1.0)]
    nets.append(arch.subnet(32, [48, 40, 32, 64, 24, 48, 20, 17], "odd"))
    folder = tmp_path_factory.mktemp("segmented") / "bundle"
    build(tiny_checkpoint, Plan("tiny", nets, ["onnxruntime", "openvino"], segments=True), folder)
    return folder


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory, tiny_checkpoint):
    """The smallest and the full network of the same generator, for ONNX Runtime alone. Not to be written to."""
    from quality_bundles import build_small

    return build_small(tmp_path_factory.mktemp("small") / "bundle", tiny_checkpoint)


@pytest.fixture(scope="session")
def predictor_file(tmp_path_factory):
    """An attribute predictor of 32 px, small.safetensors."""
    from quality_bundles import write_predictor

    return write_predictor(tmp_path_factory.mktemp("predictor") / "small.safetensors")
