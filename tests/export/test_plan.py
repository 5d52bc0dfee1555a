"""TensorRT-RTX engines, built for real without a GPU."""

import enum
import json
import lzma
import re
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from anycost.errors import BackendError, BuildError
from anycost.export.build import Plan, build
from anycost.export.compilers import plan
from anycost.export.compilers import tensorrt as tensorrt_compiler
from anycost.export.compilers import tensorrt_rtx as rtx_compiler
from anycost.export.trace import trace_synthesis
from anycost.export.variants import Variant, variants
from anycost.runtime.engine_info import engine_info, is_engine
from anycost.runtime.runtime import open as open_bundle
from anycost.weights.catalogue import resolve
from anycost.weights.checkpoint import read
from anycost.weights.random_init import random_network

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no package for this platform")
TARGETS = ["sm_86", "sm_89", "sm_120"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_checkpoint):
    """fp16 for the CPU and three GPUs, with a network beside the generator."""
    nets = [tiny_checkpoint.arch.subnet(16, 0.25), tiny_checkpoint.arch.full()]
    wanted = variants(None, ["fp16"], ["cpu", *TARGETS], batch="1:2:4")
    networks = {"mlp": random_network("mlp-gan")}
    folder = tmp_path_factory.mktemp("plan") / "bundle"
    build(tiny_checkpoint, Plan("tiny", nets, wanted, networks=networks), folder)
    return folder


def test_one_plan_for_three_targets_beside_the_cpu_engines(bundle):
    manifest = open_bundle(bundle).bundle.manifest
    found = {engine.name: engine for engine in manifest.engines}
    for network in ("mapping", "0.25@16", "1@32", "mlp"):
        engine = found[f"{network}/tensorrt_rtx-fp16"]
        assert engine.targets == tuple(TARGETS) and engine.batch == (1, 2, 4) and engine.precision == "fp16"
        # The machine that tests has no such GPU: what is known is of the graph, and it is the CPU engine's graph.
        assert engine.checked == "graph" and engine.parity == found[f"{network}/onnxruntime-fp16"].parity
        assert engine.parity.psnr_db > 45
    assert len(found) == 3 * 4


def test_the_plan_holds_no_weights(bundle, tiny_checkpoint):
    folder = bundle / "engines/1@32/tensorrt_rtx-fp16"
    stored = lzma.decompress((folder / "engine.plan.xz").read_bytes())
    weight = tiny_checkpoint.tensors["convs.2.conv.weight"].numpy()
    for number in (np.float16, np.float32):
        # Any four of its values in a row, in the file's own type.
        assert weight.reshape(-1)[:4].astype(number).tobytes() not in stored
    bindings = json.loads((folder / "bindings.json").read_text())
    assert bindings["delivery"] == "inputs" and len(bindings["weights"]) > 30
    assert (bundle / "weights/generator.safetensors").stat().st_size < 0.55 * 4 * sum(
        tensor.numel() for tensor in tiny_checkpoint.tensors.values()
    )


def test_the_report_says_what_was_built(bundle):
    report = json.loads((bundle / "engines/1@32/tensorrt_rtx-fp16/report.json").read_text())
    assert report["targets"] == TARGETS and report["batch"] == [1, 2, 4] and report["precision"] == "fp16"
    types = {layer["type"] for layer in report["layers"] if layer["operation"] == "convolution"}
    assert "half" in types and report["plan_bytes"] > 0
    inputs = {port["name"]: port for port in report["inputs"]}
    assert inputs["w_plus"]["type"] == "float" and inputs["constants.conv1__weight"]["type"] == "half"


def test_a_finished_engine_is_kept_and_refresh_makes_it_again(bundle, tiny_checkpoint, tmp_path, monkeypatch):
    nets = [tiny_checkpoint.arch.subnet(16, 0.25)]
    wanted = Plan("tiny", nets, [Variant("tensorrt_rtx", "fp16", tuple(TARGETS), (1, 1, 1))])
    build(tiny_checkpoint, wanted, tmp_path / "b")
    calls = []
    write = rtx_compiler.write
    monkeypatch.setattr(rtx_compiler, "write", lambda *given: (calls.append(1), write(*given)))
    build(tiny_checkpoint, wanted, tmp_path / "b")
    assert not calls
    again = Plan("tiny", nets, wanted.variants, refresh=True)
    build(tiny_checkpoint, again, tmp_path / "b")
    assert len(calls) == 2


def test_an_engine_is_described_from_its_folder(bundle):
    folder = bundle / "engines/1@32/tensorrt_rtx-fp16"
    assert is_engine(folder) and is_engine(folder / "engine.plan.xz") and not is_engine(bundle)
    found = engine_info(folder / "engine.plan.xz")
    assert found["name"] == "1@32/tensorrt_rtx-fp16" and found["inputs"]["w_plus"] == [8, 64]
    assert found["outputs"] == {"image": [3, 32, 32]} and found["weights"]["delivery"] == "inputs"
    assert found["here"] and not found["changed"] and found["versions"]["tensorrt_rtx"]


def test_a_bundle_for_another_machine_can_be_looked_at_and_not_run(tmp_path, tiny_checkpoint):
    only = [Variant("tensorrt_rtx", "fp16", ("sm_89",), (1, 1, 1))]
    build(tiny_checkpoint, Plan("tiny", [tiny_checkpoint.arch.subnet(8, 0.25)], only), tmp_path / "b")

    def run(*arguments):
        return subprocess.run([sys.executable, "-m", "anycost.cli", *arguments], capture_output=True, text=True)

    shown = run("inspect", str(tmp_path / "b"))
    assert (
        shown.returncode == 0 and "0.25@8/tensorrt_rtx-fp16" in shown.stdout and "needs an NVIDIA GPU" in shown.stdout
    )
    for command in (["verify"], ["generate", "--seed", "0", "-o", str(tmp_path / "out")]):
        refused = run(command[0], str(tmp_path / "b"), *command[1:])
        assert refused.returncode == 2 and "can run here: tensorrt_rtx-fp16: it needs an NVIDIA GPU" in refused.stderr


def test_asking_for_an_engine_that_cannot_run_here_names_one_that_can(bundle):
    runtime = open_bundle(bundle)
    with pytest.raises(
        BackendError, match=r"tensorrt_rtx cannot run here: .*GPU.*; here run onnxruntime-fp16, openvino-fp16"
    ):
        runtime.generate(0, backend="tensorrt_rtx")
    rows = runtime.choose().rows
    assert {row.engine.backend for row in rows if not row.runs} == {"tensorrt_rtx"}
    checks = {check.engine: check for check in runtime.verify()}
    assert checks["1@32/tensorrt_rtx-fp16"].skipped and checks["1@32/openvino-fp16"].passed


@pytest.mark.parametrize(
    ("targets", "said"), [(("sm_90",), "does not build for sm_90: it builds for sm_75"), (("sm_13",), "sm_13")]
)
def test_a_target_that_the_library_does_not_know(tiny_checkpoint, tmp_path, targets, said):
    traced = trace_synthesis(
        tiny_checkpoint.arch,
        tiny_checkpoint.arch.subnet(8, 0.25),
        tiny_checkpoint.generator().state_dict(),
        True,
        "fp16",
    )
    with pytest.raises(BuildError, match=f"does not build for {targets[-1]}: it builds for sm_75"):
        rtx_compiler.write(traced, Variant("tensorrt_rtx", "fp16", targets, (1, 1, 1)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_bf16_and_fp32_build_too(tiny_checkpoint, tmp_path):
    state = tiny_checkpoint.generator().state_dict()
    net = tiny_checkpoint.arch.subnet(16, 0.5)
    for precision in ("bf16", "fp32"):
        folder = tmp_path / precision
        folder.mkdir()
        traced = trace_synthesis(tiny_checkpoint.arch, net, state, False, precision)
        rtx_compiler.write(traced, Variant("tensorrt_rtx", precision, ("sm_89",), (1, 1, 8), 64), folder)
        report = json.loads((folder / "report.json").read_text())
        kinds = {layer["type"] for layer in report["layers"] if layer["operation"] == "convolution"}
        assert ("bf16" if precision == "bf16" else "float") in kinds and report["workspace_mb"] == 64


class _Config:
    def __init__(self):
        self.hardware_compatibility_level = "none"


class _Gpu:
    def __init__(self, target):
        self.target = target


def test_tensorrt_is_aimed_at_the_gpu_at_hand(monkeypatch):
    """Its libraries are not needed to say for what it can build."""

    class Trt:
        class HardwareCompatibilityLevel:
            AMPERE_PLUS = "ampere plus"

    config = _Config()
    with pytest.raises(BuildError, match="builds on a GPU and none was found"):
        tensorrt_compiler.aim(Trt, config, ("sm_89",))
    monkeypatch.setattr(tensorrt_compiler, "devices", lambda: (_Gpu("sm_89"),))
    tensorrt_compiler.aim(Trt, config, ("sm_89",))
    assert config.hardware_compatibility_level == "none"
    tensorrt_compiler.aim(Trt, config, ("sm_86", "sm_120"))
    assert config.hardware_compatibility_level == "ampere plus"
    with pytest.raises(BuildError, match="not for sm_75"):
        tensorrt_compiler.aim(Trt, config, ("sm_75",))


def test_all_sub_networks_of_the_embedded_model_build_for_three_gpus(tmp_path):
    """What a user's first build for GPUs does, but for the check of each."""
    checkpoint = read(resolve("avatars"))
    state = checkpoint.generator().state_dict()
    sizes = {}
    for net in checkpoint.arch.grid():
        folder = tmp_path / net.name
        folder.mkdir()
        traced = trace_synthesis(checkpoint.arch, net, state, False, "fp16")
        rtx_compiler.write(traced, Variant("tensorrt_rtx", "fp16", tuple(TARGETS), (1, 1, 8)), folder)
        sizes[net.name] = (folder / "engine.plan.xz").stat().st_size
    # The weights of the full network are 7 MB in half precision: no plan holds a part of them.
    assert len(sizes) == 16 and max(sizes.values()) < 500_000


# What plan.py asks of either library.
NAMES = {
    "Builder": {"create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"},
    "BuilderFlag": {"REFIT", "STRIP_PLAN", "TF32"},
    "EngineInspector": {"get_engine_information"},
    "HardwareCompatibilityLevel": {"AMPERE_PLUS"},
    "IBuilderConfig": {
        "add_optimization_profile",
        "clear_flag",
        "create_timing_cache",
        "get_timing_cache",
        "set_flag",
        "set_memory_pool_limit",
        "set_timing_cache",
    },
    "INetworkDefinition": {"get_input", "get_layer", "get_output", "num_inputs", "num_layers", "num_outputs"},
    "IOptimizationProfile": {"set_shape"},
    "ITimingCache": {"serialize"},
    "LayerInformationFormat": {"JSON"},
    "MemoryPoolType": {"WORKSPACE"},
    "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED"},
    "OnnxParser": {"get_error", "num_errors", "parse"},
    "Runtime": {"deserialize_cuda_engine"},
}


def test_the_names_exist_in_both_libraries():
    import tensorrt_rtx

    assert {
        name: {m for m in members if not hasattr(getattr(tensorrt_rtx, name), m)} for name, members in NAMES.items()
    } == {name: set() for name in NAMES}
    found = util.find_spec("tensorrt_bindings")
    if found is None:
        pytest.skip("needs tensorrt-stubs")
    text = (Path(found.submodule_search_locations[0]) / "tensorrt.pyi").read_text()
    blocks = re.split(r"^class (\w+).*:$", text, flags=re.MULTILINE)
    classes = dict(zip(blocks[1::2], blocks[2::2], strict=True))
    for name, members in NAMES.items():
        body = classes[name].split("\n\n\n")[0]
        assert [m for m in members if not re.search(rf"^    (def |class )?{m}\b", body, re.MULTILINE)] == [], name


class _Library:
    """TensorRT's builder as far as plan.py uses it: it records, and its plan is the graph that it was given."""

    __version__ = "11.0"
    BuilderFlag = enum.Enum("BuilderFlag", "REFIT STRIP_PLAN TF32")
    MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
    LayerInformationFormat = enum.Enum("LayerInformationFormat", "JSON")
    NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})

    class ILogger:
        VERBOSE = 4

        def __init__(self):
            pass

    def __init__(self, plan=True):
        self.flags, self.shapes, self.pool, self.cache = set(), {}, None, []
        library = self

        class Plan(bytes):
            nbytes = property(len)

        class Builder:
            def __init__(self, logger):
                logger.log("Severity.ERROR", "  no  kernel\nfor this ")

            def create_network(self, flags):
                assert flags == 2
                return SimpleNamespace(num_inputs=0, num_outputs=0, num_layers=0)

            def create_builder_config(self):
                return SimpleNamespace(
                    set_flag=library.flags.add,
                    clear_flag=library.flags.discard,
                    set_memory_pool_limit=lambda pool, size: setattr(library, "pool", size),
                    add_optimization_profile=lambda profile: None,
                    create_timing_cache=lambda content: content or b"new",
                    set_timing_cache=lambda cache, ignore_mismatch: library.cache.append(cache),
                    get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"measured"),
                )

            def create_optimization_profile(self):
                return SimpleNamespace(set_shape=lambda name, *shapes: library.shapes.__setitem__(name, shapes))

            def build_serialized_network(self, network, config):
                return Plan(network.model) if plan else None

        class OnnxParser:
            def __init__(self, network, logger):
                self.network = network

            def parse(self, model):
                ports = onnx.load_from_string(model).graph.input
                inputs = [
                    SimpleNamespace(
                        name=p.name,
                        shape=(-1, *[d.dim_value for d in p.type.tensor_type.shape.dim][1:]),
                        dtype="DataType.FLOAT",
                    )
                    for p in ports
                ]
                vars(self.network).update(model=model, num_inputs=len(inputs), get_input=inputs.__getitem__)
                return True

        class Runtime:
            def __init__(self, logger):
                pass

            def deserialize_cuda_engine(self, plan):
                told = SimpleNamespace(get_engine_information=lambda form: '{"Layers": ["conv"]}')
                return SimpleNamespace(create_engine_inspector=lambda: told)

        self.Builder, self.OnnxParser, self.Runtime = Builder, OnnxParser, Runtime


def refit(trt, config, targets):
    config.aimed = targets


def test_tensorrt_plans_are_stripped_and_refitted_by_the_initializers_names(tiny_checkpoint, tmp_path):
    net = tiny_checkpoint.arch.subnet(8, 0.25)
    traced = trace_synthesis(tiny_checkpoint.arch, net, tiny_checkpoint.generator().state_dict(), False, "fp16")
    trt, variant = _Library(), Variant("tensorrt", "fp16", ("sm_89",), (1, 2, 4), 32)
    library = plan.Library("tensorrt", "refit", refit)
    for again in range(2):
        plan.write(trt, library, traced, variant, tmp_path)
        assert trt.flags == {trt.BuilderFlag.REFIT, trt.BuilderFlag.STRIP_PLAN} and trt.pool == 32 << 20
        # Tactics that an earlier build measured are taken up.
        assert trt.cache[again] == (b"measured" if again else b"new")
    assert trt.shapes["w_plus"] == ((1, 8, 64), (2, 8, 64), (4, 8, 64)) and not any(
        "constants" in name for name in trt.shapes
    )
    stored = onnx.load_from_string(lzma.decompress((tmp_path / "engine.plan.xz").read_bytes()))
    bindings = json.loads((tmp_path / "bindings.json").read_text())
    assert bindings["delivery"] == "refit" and set(bindings["weights"]) <= {x.name for x in stored.graph.initializer}
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["tactics"] == {"Layers": ["conv"]} and report["log"] == ["error: no kernel for this"]


def test_a_library_that_cannot_build_is_quoted(tiny_checkpoint, tmp_path):
    net = tiny_checkpoint.arch.subnet(8, 0.25)
    traced = trace_synthesis(tiny_checkpoint.arch, net, tiny_checkpoint.generator().state_dict(), False, "fp16")
    library, variant = plan.Library("tensorrt", "refit", refit), Variant("tensorrt", "fp16", ("sm_89",), (1, 1, 1))
    with pytest.raises(BuildError, match=r"tensorrt 11\.0 could not build for sm_89: error: no kernel for this"):
        plan.write(_Library(plan=False), library, traced, variant, tmp_path)
    assert not list(tmp_path.iterdir())
