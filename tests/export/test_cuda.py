"""Engines of our own kernels, built on a machine that need not have a GPU."""

import json
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

from anycost.errors import BackendError, BuildError
from anycost.export import compilers
from anycost.export.build import Plan, build
from anycost.export.compilers import cuda as compiler
from anycost.export.trace import MappingSource, SynthesisSource, Traced, trace_mapping, trace_synthesis
from anycost.export.variants import Variant
from anycost.networks.registry import BY_NAME
from anycost.runtime.bundle import Weights
from anycost.runtime.cuda.constants import packed
from anycost.runtime.cuda.program import KERNELS_NAME, PROGRAM_NAME, read_images, read_program
from anycost.runtime.engine_info import engine_info
from anycost.runtime.usable import unusable
from anycost.weights.checkpoint import NetworkCheckpoint

pytest.importorskip("triton", reason="Triton has no package for this platform")
# The smallest network: compiling takes a second for each kernel and target.
TARGETS = ("sm_86", "sm_89", "sm_90", "sm_120")
CUDA = Variant("cuda", "fp16", TARGETS, (1, 1, 4))


def other_network():
    return NetworkCheckpoint(BY_NAME["mlp-gan"].make().state_dict(), "mlp-gan", {}, "random", "0" * 64)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_checkpoint):
    folder = tmp_path_factory.mktemp("cuda") / "bundle"
    nets = [tiny_checkpoint.arch.subnet(8, 0.25)]
    build(tiny_checkpoint, Plan("tiny", nets, [CUDA], networks={"digits": other_network()}), folder)
    return folder


def test_an_engine_is_a_program_and_its_kernels(bundle):
    folder = bundle / "engines/0.25@8/cuda-fp16"
    assert sorted(path.name for path in folder.iterdir()) == ["engine.json", KERNELS_NAME, PROGRAM_NAME, "report.json"]
    program = read_program(folder)
    assert (program.targets, program.precision, program.max_batch) == (TARGETS, "fp16", 4)
    assert program.inputs == ("w_plus", "noise_0", "noise_1", "noise_2") and program.outputs == ("image",)
    images = read_images(program, folder)
    assert all(image[:4] == b"\x7fELF" for image in images.values())
    for kernel in program.kernels:
        # Machine code of one target is another's for none of them.
        assert set(kernel.images) == set(TARGETS) and len({images[entry] for entry in kernel.images.values()}) == 4
    # The mapping is float32 in every precision.
    assert read_program(bundle / "engines/mapping/cuda-fp16").precision == "fp32"


def test_the_records_say_how_it_was_checked(bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    engines = {f"{engine['network']}": engine for engine in manifest["engines"]}
    # Other networks have no engine of this kind.
    assert set(engines) == {"mapping", "0.25@8"}
    for engine in engines.values():
        assert engine["backend"] == "cuda" and engine["targets"] == [*TARGETS] and engine["batch"] == [1, 1, 4]
        assert engine["versions"]["triton"] == metadata.version("triton") and "cuda" not in engine["versions"]
        assert engine["checked"] == ("engine" if not engine_info(bundle / engine["folder"])["here"] else "graph")
        assert engine["parity"]["psnr_db"] > 45


def test_an_engine_is_described_from_its_folder(bundle):
    found = engine_info(bundle / "engines/0.25@8/cuda-fp16")
    assert found["name"] == "0.25@8/cuda-fp16" and not found["changed"] and found["outputs"] == {"image": [3, 8, 8]}
    report = found["report"]
    assert report["kernels"] > 3 and report["scratch_bytes"] >= report["least_scratch_bytes"] > 0
    assert list(report["steps"])[:3] == ["styles", "conv1", "to_rgb1"]
    shown = subprocess.run(
        [sys.executable, "-m", "anycost.cli", "inspect", str(bundle)], capture_output=True, text=True, check=True
    )
    assert "0.25@8/cuda-fp16" in shown.stdout


def test_no_weight_is_in_an_engine(bundle):
    """All constants are bound from the one weights file."""
    program = read_program(bundle / "engines/0.25@8/cuda-fp16")
    weights = Weights(bundle / "weights/generator.safetensors")
    for region in program.regions:
        if region.kind == "weight":
            array = packed(region, weights.bind)
            assert array.size == region.size and np.isfinite(array.astype(np.float32)).all()
        assert region.kind != "table" or region.name in ("units", "taps")


def test_the_same_build_again_compiles_nothing(bundle, tiny_checkpoint, monkeypatch):
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    monkeypatch.setattr(compiler, "write", lambda *given: pytest.fail("compiled again"))
    nets = [tiny_checkpoint.arch.subnet(8, 0.25)]
    build(tiny_checkpoint, Plan("tiny", nets, [CUDA], networks={"digits": other_network()}), bundle)
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def test_where_there_is_no_gpu_it_is_said(bundle):
    from anycost.runtime.runtime import open as open_bundle

    if not all(unusable(engine) for engine in open_bundle(bundle).bundle.manifest.engines):
        pytest.skip("there is a GPU")
    with pytest.raises(
        BackendError, match=r"cuda-fp16: it needs an NVIDIA GPU|cuda-fp16: backend cuda needs the package"
    ):
        open_bundle(bundle).generate(0)


def test_networks_without_an_engine_do_not_stop_the_others(bundle):
    from anycost.runtime.profile import part_engines
    from anycost.runtime.runtime import open as open_bundle

    assert part_engines(open_bundle(bundle).bundle) == []


def test_other_networks_alone_have_no_engine(tmp_path):
    with pytest.raises(BuildError, match="backend cuda runs generators, and there is none to build: add another"):
        build(None, Plan("digits", [], [CUDA], networks={"digits": other_network()}), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_graphs_say_what_they_are_of(tiny_checkpoint):
    arch, state = tiny_checkpoint.arch, tiny_checkpoint.generator().state_dict()
    net = arch.subnet(8, 0.25)
    assert trace_mapping(arch, state).source == MappingSource(arch)
    traced = trace_synthesis(arch, net, state, True, "fp16")
    assert traced.source == SynthesisSource(arch, net, True)
    with pytest.raises(BuildError, match="backend cuda runs the generator's networks alone"):
        compiler.write(Traced(traced.model, traced.bindings), CUDA, None)


def test_the_compiler_is_triton(monkeypatch):
    compilers.require(CUDA)

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(compilers.metadata, "version", missing)
    with pytest.raises(
        BackendError, match=r"package triton, which is not installed: pip install 'anycost-runtime\[kernels\]'"
    ):
        compilers.require(CUDA)
