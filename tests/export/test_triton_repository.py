"""Model repositories for Triton Inference Server: parsed by its own schema, and run by ONNX Runtime as their ensembles say."""

import json
import re
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from onnx import helper
from tritonclient.grpc import model_config_pb2 as schema

import anycost
from anycost.editing.directions import Directions, unit
from anycost.errors import BackendError, BuildError
from anycost.export import appearing, triton_plan, winograd
from anycost.export.build import Plan, build
from anycost.export.triton_configs import Serving, batch_sizes, safe_name
from anycost.export.triton_repository import INDEX_NAME, export
from anycost.export.variants import variants
from anycost.runtime.parity import compare, psnr, views
from anycost.runtime.samples import inputs_of
from anycost.runtime.verify import misfit
from anycost.weights.random_init import random_network

NAMES = ("smiling", "young", "older than 50")


def directions(style_dim):
    rng = np.random.default_rng(0)
    about = ({"strength": 1.5}, {}, {})
    return Directions(NAMES, np.stack([unit(rng.standard_normal(style_dim)) for _ in NAMES]), about)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, tiny_checkpoint):
    """Two sub-networks, directions, another network; ONNX in fp32 and fp16, and OpenVINO. Its convolutions are rewritten for CPUs
    as those of larger networks are."""
    arch = tiny_checkpoint.arch
    plan = Plan(
        "tiny",
        [arch.subnet(16, 0.25), arch.full()],
        [*variants(["onnxruntime"], ["fp32", "fp16"], []), "openvino"],
        networks={"mlp": random_network("mlp-gan")},
        directions=directions(arch.style_dim),
    )
    folder = tmp_path_factory.mktemp("triton") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "LEAST_CHANNELS", 4)
        build(tiny_checkpoint, plan, folder)
    return anycost.open(folder)


@pytest.fixture(scope="module")
def repository(bundle, tmp_path_factory):
    return export(bundle.bundle, tmp_path_factory.mktemp("repository") / "repo", Serving(6, 1500, 2, 3))


def config_of(folder, name):
    return text_format.Parse((folder / name / "config.pbtxt").read_text(), schema.ModelConfig())


def configs(repository):
    return {entry.name: config_of(repository.folder, entry.name) for entry in repository.models}


def run(folder, name, inputs):
    """What a model gives, as its configuration says: one file, or one step after the other."""
    config = config_of(folder, name)
    assert set(inputs) == {port.name for port in config.input}
    if config.platform == "ensemble":
        known = dict(inputs)
        for step in config.ensemble_scheduling.step:
            found = run(folder, step.model_name, {port: known[at] for port, at in step.input_map.items()})
            known |= {at: found[port] for port, at in step.output_map.items()}
        found = known
    else:
        session = ort.InferenceSession(folder / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        names = [port.name for port in session.get_outputs()]
        found = dict(zip(names, session.run(names, dict(inputs)), strict=True))
    return {port.name: found[port.name] for port in config.output}


def test_the_schema_takes_every_configuration(repository):
    folders = {path.name for path in repository.folder.iterdir() if path.is_dir()}
    assert folders == {entry.name for entry in repository.models}
    for name, config in configs(repository).items():
        assert re.fullmatch(r"[A-Za-z0-9_-]+", name) and config.name == name
        assert config.max_batch_size == 6
        assert [path.name for path in (repository.folder / name).iterdir() if path.is_dir()] == ["1"]
        if config.platform == "ensemble":
            continue
        assert config.backend == "onnxruntime" and config.default_model_filename == "model.onnx"
        (group,) = config.instance_group
        assert group.kind == schema.ModelInstanceGroup.KIND_CPU
        (warm,) = config.model_warmup
        assert warm.batch_size == 1 and set(warm.inputs) == {port.name for port in config.input}
        assert all(value.random_data and -1 not in value.dims for value in warm.inputs.values())
        assert config.parameters["intra_op_thread_count"].string_value == "3"
        batching = config.dynamic_batching
        if config.parameters["anycost_engine"].string_value:
            assert group.count == 2
            assert list(batching.preferred_batch_size) == [2, 4, 6] and batching.max_queue_delay_microseconds == 1500
        else:
            # A step between two networks: what comes to it is a batch already.
            assert group.count == 1 and batching.max_queue_delay_microseconds == 0


def test_configurations_are_those_of_their_files(repository):
    types = {schema.TYPE_FP32: onnx.TensorProto.FLOAT, schema.TYPE_UINT8: onnx.TensorProto.UINT8}
    for name, config in configs(repository).items():
        if config.platform == "ensemble":
            continue
        model = onnx.load(repository.folder / name / "1" / "model.onnx")
        onnx.checker.check_model(model)
        assert all(initializer.data_location == onnx.TensorProto.DEFAULT for initializer in model.graph.initializer)
        # Servers of 2024 take no newer one; of our own the graphs say 10.
        assert model.ir_version <= 8
        for ports, values in ((config.input, model.graph.input), (config.output, model.graph.output)):
            assert [port.name for port in ports] == [value.name for value in values]
            for port, value in zip(ports, values, strict=True):
                tensor = value.type.tensor_type
                batch, *sides = tensor.shape.dim
                assert tensor.elem_type == types[port.data_type] and batch.dim_param
                assert [side.dim_value or -1 for side in sides] == list(port.dims)


def test_ensembles_hand_on_what_the_next_one_takes(repository):
    found = configs(repository)
    ensembles = [config for config in found.values() if config.platform == "ensemble"]
    assert [config.name for config in ensembles] == [
        "generate_0_25_at_16",
        "edit_0_25_at_16",
        "generate_1_at_32",
        "edit_1_at_32",
    ]
    for config in ensembles:
        known = {port.name: port for port in config.input}
        for step in config.ensemble_scheduling.step:
            model = found[step.model_name]
            assert {port.name for port in model.input} == set(step.input_map) and step.model_version == -1
            for port in model.input:
                given = known[step.input_map[port.name]]
                assert given.data_type == port.data_type
                assert all(a in (b, -1) for a, b in zip(port.dims, given.dims, strict=True))
            known |= {step.output_map[port.name]: port for port in model.output}
        # Triton drops outputs that are not asked for, with the steps that take them.
        taken = {at for step in config.ensemble_scheduling.step for at in step.input_map.values()}
        assert not taken & {port.name for port in config.output}
        for port in config.output:
            assert known[port.name].data_type == port.data_type
            assert all(a in (b, -1) for a, b in zip(known[port.name].dims, port.dims, strict=True))


def test_every_engine_gives_its_reference(bundle, repository):
    held = bundle.bundle
    stored = held.tensors(held.generator.latents)
    index = json.loads((repository.folder / INDEX_NAME).read_text())["models"]
    seen = []
    for name, entry in index.items():
        if entry["kind"] != "engine":
            continue
        expected = held.tensors(held.manifest.references[entry["network"]])
        part = held.part(entry["network"])
        if part:
            inputs = inputs_of(part[0].part(part[1]))
        elif entry["network"] == "mapping":
            inputs = {"z": stored["z"]}
        else:
            # The first sample alone has the stored noise, which is what the repository holds.
            inputs = {"w_plus": stored["w_plus"][:1]}
            expected = {view: array[:1] for view, array in expected.items()}
        (engine,) = [engine for engine in held.manifest.engines if engine.name == entry["engine"]]
        parity = compare(views(run(repository.folder, name, inputs)), expected)
        assert misfit(parity, engine.precision) == "", name
        seen.append(entry["engine"])
    assert sorted(seen) == sorted(e.name for e in held.manifest.engines if e.backend == "onnxruntime")


@pytest.mark.parametrize("subnet", ["0.25@16", "1@32"])
def test_generate_gives_the_reference_and_the_runtimes_pictures(bundle, repository, subnet):
    held = bundle.bundle
    name = f"generate_{safe_name(subnet)}"
    z = held.tensors(held.generator.latents)["z"]
    expected = held.tensors(held.manifest.references[subnet])["image.whole"][:1]
    found = run(repository.folder, name, {"z": z[:1], "psi": np.ones((1, 1), np.float32)})
    assert psnr(found["image"], expected, 2.0) > 80
    psi = np.array([[0.7], [-0.5], [1.0]], np.float32)
    codes = anycost.runtime.latents.latents([3, 4, 5], z.shape[1])
    found = run(repository.folder, name, {"z": codes, "psi": psi})
    for i, one in enumerate(psi[:, 0]):
        picture = bundle.generate(z=codes[i : i + 1], psi=float(one), subnet=subnet, backend="onnxruntime")
        assert np.abs(found["picture"][i].astype(int) - picture[0]).max() <= 1
        assert found["picture"].dtype == np.uint8


def test_edit_moves_codes_as_the_runtime_does(bundle, repository):
    held = bundle.bundle
    codes = held.tensors(held.generator.latents)["w_plus"]
    config = config_of(repository.folder, "edit_1_at_32")
    assert tuple(json.loads(config.parameters["directions"].string_value)) == NAMES
    values = np.array([[0, 0, 0], [60, -25, 100]], np.float32)
    found = run(repository.folder, "edit_1_at_32", {"w_plus": codes, "values": values})
    expected = held.tensors(held.manifest.references["1@32"])["image.whole"][:1]
    assert psnr(found["image"][:1], expected, 2.0) > 80
    moved = bundle.edit(codes[1:], dict(zip(NAMES, values[1].tolist(), strict=True)))
    picture = bundle.generate(w_plus=moved, subnet="1@32", backend="onnxruntime")
    assert np.abs(found["picture"][1].astype(int) - picture[0]).max() <= 1
    # A graph cannot refuse: it cuts.
    twice = run(repository.folder, "sliders", {"w_plus": codes[:1], "values": np.array([[250, 0, 0]], np.float32)})
    once = run(repository.folder, "sliders", {"w_plus": codes[:1], "values": np.array([[100, 0, 0]], np.float32)})
    np.testing.assert_array_equal(twice["edited"], once["edited"])


def test_what_is_left_out_is_said(repository):
    assert repository.left_out == ["engines of openvino: the same networks run as ONNX"]
    index = json.loads((repository.folder / INDEX_NAME).read_text())
    assert index["left_out"] == repository.left_out


def test_gpu_engines_are_placed_on_gpus(bundle, tmp_path, monkeypatch):
    """Records of engines for GPUs over the graphs of the bundle's own."""
    held = bundle.bundle
    more = []
    for engine in held.manifest.engines:
        if engine.backend == "onnxruntime":
            more += [
                engine.model_copy(update={"backend": backend, "targets": ("cuda",)})
                for backend in ("onnxruntime_cuda", "onnxruntime_tensorrt")
            ]
    manifest = held.manifest.model_copy(update={"engines": (*held.manifest.engines, *more)})
    found = export(type(held)(held.folder, manifest, held.manifest_sha256), tmp_path / "repo")
    config = config_of(found.folder, "1_at_32")
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt" and accelerator.parameters["precision_mode"] == "FP32"
    assert accelerator.parameters["trt_profile_max_shapes"] == "w_plus:8x8x64"
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert [warm.batch_size for warm in config.model_warmup] == [1, 8]
    half = config_of(found.folder, "1_at_32_tensorrt-fp16").optimization.execution_accelerators
    assert half.gpu_execution_accelerator[0].parameters["precision_mode"] == "FP16"
    cuda = config_of(found.folder, "1_at_32_onnxruntime_cuda")
    assert cuda.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU and not cuda.HasField("optimization")
    cpu = config_of(found.folder, "1_at_32_onnxruntime")
    assert cpu.instance_group[0].kind == schema.ModelInstanceGroup.KIND_CPU
    assert config_of(found.folder, "pictures").instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert any(line.startswith("TensorRT plans (") for line in found.left_out)


def test_gpus_get_convolutions_as_they_are(bundle, tmp_path):
    held = bundle.bundle
    record = next(e for e in held.manifest.engines if e.name == "1@32/onnxruntime")
    manifest = held.manifest.model_copy(
        update={"engines": (*held.manifest.engines, record.model_copy(update={"backend": "tensorrt_rtx"}))}
    )
    found = export(type(held)(held.folder, manifest, held.manifest_sha256), tmp_path / "repo").folder
    inputs = {"w_plus": held.tensors(held.generator.latents)["w_plus"]}
    images, layers = [], []
    for name in ("1_at_32", "1_at_32_onnxruntime"):
        images.append(run(found, name, inputs)["image"])
        nodes = onnx.load(found / name / "1" / "model.onnx").graph.node
        kernels = [
            helper.get_node_attr_value(node, "kernel_shape")
            for node in nodes
            if node.op_type == "Conv" and any(each.name == "kernel_shape" for each in node.attribute)
        ]
        layers.append(kernels.count([1, 3]))
    assert layers == [0, 12]  # at 16 and 32 px
    assert psnr(images[0], images[1], 2.0) > 105


def test_a_plan_holds_the_weights(repository):
    """Built by TensorRT-RTX, whose interface is TensorRT's and which needs no GPU."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX has no package for this platform")

    def aim(trt, config):
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)

    path = repository.folder / "mapping" / "1" / "model.onnx"
    plan = triton_plan.full_plan(rtx, path.read_bytes(), (1, 2, 6), aim)
    weights = sum(len(initializer.raw_data) for initializer in onnx.load(path).graph.initializer)
    assert len(plan) > weights > 50_000
    with pytest.raises(BuildError, match="does not take the graph"):
        triton_plan.full_plan(rtx, b"nothing", (1, 2, 6), aim)


def test_where_tensorrt_is_plans_are_written(bundle, tmp_path, monkeypatch):
    held = bundle.bundle
    more = [
        engine.model_copy(update={"backend": "tensorrt", "targets": ("sm_89",), "batch": (1, 2, 4)})
        for engine in held.manifest.engines
        if engine.backend == "onnxruntime" and engine.precision == "fp32"
    ]
    manifest = held.manifest.model_copy(update={"engines": (*held.manifest.engines, *more)})
    monkeypatch.setattr(triton_plan, "hindrance", lambda: "")
    asked = []
    monkeypatch.setattr(triton_plan, "here", lambda model, batch: asked.append(batch) or b"plan")
    found = export(type(held)(held.folder, manifest, held.manifest_sha256), tmp_path / "repo")
    config = config_of(found.folder, "1_at_32")
    assert (config.backend, config.default_model_filename, config.max_batch_size) == ("tensorrt", "model.plan", 4)
    assert (found.folder / "1_at_32" / "1" / "model.plan").read_bytes() == b"plan"
    assert set(asked) == {(1, 2, 4)}
    assert config_of(found.folder, "generate_1_at_32").max_batch_size == 4
    assert config_of(found.folder, "1_at_32_onnxruntime").max_batch_size == 8


def test_segments_where_they_are_asked_for(segmented_bundle, tmp_path):
    runtime = anycost.open(segmented_bundle)
    found = export(runtime.bundle, tmp_path / "repo")
    assert any("6 segments" in line for line in found.left_out)
    # Its bundle has no directions.
    assert any(line.startswith("ensembles for edits") for line in found.left_out)
    found = export(runtime.bundle, tmp_path / "repo", segments=True)
    codes = runtime.bundle.tensors(runtime.bundle.generator.latents)["w_plus"][:1]
    given = {}
    for name in ("0_5_at_4-8", "0_5_at_8-16", "0_5_at_16-32"):
        outputs = run(found.folder, name, {"w_plus": codes, **given})
        given = {f"{port}_below": value for port, value in outputs.items()}
    expected = runtime.bundle.tensors(runtime.bundle.manifest.references["0.5@32"])["image.whole"][:1]
    assert psnr(outputs["image"], expected, 2.0) > 80


def test_names_are_safe_and_never_the_same(bundle, tmp_path):
    assert safe_name("0.5@64") == "0_5_at_64" and safe_name("a..b/c d") == "a__b_c_d"
    held = bundle.bundle
    twin = [e.model_copy(update={"network": "1_AT_32"}) for e in held.engines("mlp")]
    networks = tuple(
        net.model_copy(update={"parts": (*net.parts, net.parts[0].model_copy(update={"name": "1_AT_32"}))})
        for net in held.manifest.networks
    )
    manifest = held.manifest.model_copy(update={"engines": (*held.manifest.engines, *twin), "networks": networks})
    found = export(type(held)(held.folder, manifest, held.manifest_sha256), tmp_path / "repo")
    assert {entry.network: entry.name for entry in found.models if entry.name.endswith("32_2")} == {
        "1_AT_32": "1_AT_32_2"
    }


def test_sizes_worth_waiting_for():
    assert [batch_sizes(n) for n in (2, 8, 12)] == [[2], [2, 4, 8], [2, 4, 8, 12]]


def test_one_image_at_a_time_needs_no_batching(bundle, tmp_path):
    found = export(bundle.bundle, tmp_path / "repo", Serving(max_batch=1))
    config = config_of(found.folder, "1_at_32")
    assert config.max_batch_size == 1 and not config.HasField("dynamic_batching")
    assert "intra_op_thread_count" not in config.parameters


def test_a_repository_is_replaced_whole_or_not_at_all(bundle, tmp_path, monkeypatch):
    folder = tmp_path / "repo"
    folder.mkdir()
    export(bundle.bundle, folder)
    (folder / "old_model").mkdir()
    before = sorted(path.name for path in folder.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr("anycost.export.triton_graphs.pictures", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(bundle.bundle, folder)
    assert sorted(path.name for path in folder.iterdir()) == before
    leftover = tmp_path / ".repo.part" / "half"
    leftover.mkdir(parents=True)
    export(bundle.bundle, folder)
    assert not (folder / "old_model").exists() and not (folder / "half").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]
    with (
        appearing.appearing(folder),
        pytest.raises(BuildError, match="another build is writing into"),
    ):
        export(bundle.bundle, folder)


def test_mistakes_are_told(bundle, small_bundle, tmp_path, monkeypatch):
    held = bundle.bundle
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="is a file"):
        export(held, tmp_path / "file")
    with pytest.raises(BuildError, match="holds file and is no repository"):
        export(held, tmp_path)
    with pytest.raises(BuildError, match="max-batch 0 is outside"):
        export(held, tmp_path / "repo", Serving(max_batch=0))
    engines = tuple(engine for engine in held.manifest.engines if engine.backend == "openvino")
    manifest = held.manifest.model_copy(update={"engines": engines})
    with pytest.raises(BuildError, match=r"has no engine of ONNX Runtime, .*\(it has openvino\)"):
        export(type(held)(held.folder, manifest, ""), tmp_path / "repo")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "tritonclient.grpc", None)
        with pytest.raises(BackendError, match=r"anycost-runtime\[triton\]"):
            export(held, tmp_path / "repo")
    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "write_bytes", lambda self, data: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(BuildError, match="its disk is full; nothing was kept"):
            export(held, tmp_path / "repo")
    assert not (tmp_path / "repo").exists() and not (tmp_path / ".repo.part").exists()
