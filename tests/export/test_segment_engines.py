import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest
import torch

from anycost import open as open_bundle
from anycost.errors import BuildError, ParityError
from anycost.export import compilers
from anycost.export.build import Plan, build
from anycost.export.segments import Segment, chains, segment_bindings, takes_segments, trace_segment
from anycost.export.variants import Variant, variants
from anycost.networks.channels import macs
from anycost.runtime.bundle import read_manifest, sealed


def nets(checkpoint, sides=(8, 16), ratios=(1.0,)):
    return [checkpoint.arch.subnet(side, ratio) for side in sides for ratio in ratios]


def test_chains_are_the_ratios_with_every_resolution(tiny_checkpoint):
    arch = tiny_checkpoint.arch
    given = [
        *nets(tiny_checkpoint, (32, 8, 16), (1.0, 0.5)),
        arch.subnet(16, 0.25),
        arch.subnet(8, [24, 8, 8, 8], "odd"),
    ]
    found = chains(given)
    assert [[segment.name for segment in chain] for chain in found] == [
        ["1@4-8", "1@8-16", "1@16-32"],
        ["0.5@4-8", "0.5@8-16", "0.5@16-32"],
    ]
    for chain in found:
        assert [segment.last for segment in chain] == [False, False, True]
        whole = chain[-1].net
        assert [layer for segment in chain for layer in segment.layers()] == whole.layers()
        assert sum(segment.record(arch.style_dim).macs for segment in chain) == macs(whole, arch.style_dim)


@pytest.mark.parametrize("pairs", [[(16, 1.0)], [(8, 0.5), (16, 1.0)]])
def test_without_a_whole_ratio_there_are_none(tiny_checkpoint, pairs):
    given = [tiny_checkpoint.arch.subnet(side, ratio) for side, ratio in pairs]
    with pytest.raises(BuildError, match="leave --segments out"):
        chains(given)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_constants_of_a_chain_are_those_of_the_whole_once(tiny_checkpoint, precision, stored, channels_last):
    arch = tiny_checkpoint.arch
    (chain,) = chains(nets(tiny_checkpoint, (8, 16, 32)))
    whole = Segment(arch.full(), None, True)
    parts = [segment_bindings(arch, segment, stored, precision) for segment in chain]
    assert sum(map(len, parts)) == len(whole_bindings := segment_bindings(arch, whole, stored, precision))
    assert {name: binding for part in parts for name, binding in part.items()} == whole_bindings
    state = tiny_checkpoint.generator().state_dict()
    for segment, bindings in zip(chain, parts, strict=True):
        traced = trace_segment(arch, segment, state, stored, precision, channels_last)
        assert len(traced.bindings) == len(bindings)
        shapes = {
            x.name: [axis.dim_value for axis in x.type.tensor_type.shape.dim[1:]]
            for x in (*traced.model.graph.input, *traced.model.graph.output)
        }
        # Only float32 goes in and out.
        assert {x.type.tensor_type.elem_type for x in (*traced.model.graph.input, *traced.model.graph.output)} == {1}
        assert shapes["image"] == [3] + 2 * [segment.net.resolution]
        assert ("features" in shapes) == (not segment.last)
        if segment.below:
            side = segment.below.resolution
            channels = segment.below.channels[-1]
            assert shapes["features_below"] == ([side, side, channels] if channels_last else [channels, side, side])
            assert shapes["image_below"] == [3, side, side]
        noises = [name for name in shapes if name.startswith("noise_")]
        assert noises == ([] if stored else [f"noise_{layer.noise}" for layer in segment.layers() if not layer.rgb])


def test_a_bundle_of_segments(segmented_bundle, tiny_checkpoint):
    """Each chain agrees with the paper's formulation at every resolution, for any codes, noise and batch."""
    runtime = open_bundle(segmented_bundle)
    manifest = runtime.bundle.manifest
    assert [segment.name for segment in manifest.generator.segments][:2] == ["0.5@4-8", "0.5@8-16"]
    engines = [engine for engine in manifest.engines if runtime.bundle.segment(engine.network)]
    assert len(engines) == 2 * 3 * 2 and all(engine.parity.psnr_db > 110 for engine in engines)
    # No weights, and no references of their own.
    assert set(manifest.references) == {"mapping", *(net.name for net in runtime.subnets)}
    generator = tiny_checkpoint.generator()
    codes = np.random.RandomState(4).standard_normal((3, 8, 64)).astype(np.float32)
    for ratio in (0.5, 1.0):
        for backend in ("onnxruntime", "openvino"):
            steps = list(runtime.steps(codes, subnet=f"{ratio:g}@32", backend=backend, segments=True))
            assert [step.subnet for step in steps] == [f"{ratio:g}@{side}" for side in (8, 16, 32)]
            for step in steps:
                net = runtime.bundle.subnet(step.subnet)
                with torch.no_grad():
                    wanted = generator.synthesis(
                        torch.from_numpy(codes), net=generator.arch.subnet(net.resolution, ratio)
                    ).numpy()
                assert np.abs(step.image - wanted).max() <= 1e-5 * np.ptp(wanted)


def test_verify_runs_the_whole_chain_and_finds_a_wrong_link(segmented_bundle, tmp_path):
    shutil.copytree(segmented_bundle, tmp_path / "b")
    checks = {check.engine: check for check in open_bundle(tmp_path / "b").verify()}
    assert len(checks) == 2 * (1 + 7 + 6) and all(check.passed for check in checks.values())
    # The features of one link are wrong by a tenth of its noise; the file's hash is as it should be.
    path = tmp_path / "b/engines/1@8-16/onnxruntime-fp32/bindings.json"
    found = json.loads(path.read_text())
    for binding in found["initializers"].values():
        if binding["source"] == "convs.2.noise.weight":
            binding["scale"] *= 1.1
    path.write_text(json.dumps(found))
    runtime = open_bundle(segmented_bundle)
    object.__setattr__(runtime.bundle, "folder", tmp_path / "b")
    failed = [check.engine for check in runtime.verify() if check.failed]
    assert failed == ["1@8-16/onnxruntime", "1@16-32/onnxruntime"]


def test_half_precision_and_what_has_no_segments(tmp_path, tiny_checkpoint):
    """int8 engines are built beside, without segments; a second build takes all from the first."""
    built = variants(["onnxruntime", "openvino"], ["fp16", "int8"], [], calibration=2)
    plan = Plan("tiny", nets(tiny_checkpoint), built, segments=True)
    manifest = build(tiny_checkpoint, plan, tmp_path / "b")
    segments = [engine for engine in manifest.engines if engine.network in ("1@4-8", "1@8-16")]
    assert [engine.variant for engine in segments] == ["onnxruntime-fp16"] * 2 + ["openvino-fp16"] * 2
    assert all(engine.parity.psnr_db > 60 for engine in segments)
    assert all(check.passed for check in open_bundle(tmp_path / "b").verify())
    before = (tmp_path / "b/manifest.json").read_bytes()
    build(tiny_checkpoint, plan, tmp_path / "b")
    assert (tmp_path / "b/manifest.json").read_bytes() == before
    # One link is made again behind a finished one.
    shutil.rmtree(tmp_path / "b/engines/1@8-16/openvino-fp16")
    build(tiny_checkpoint, plan, tmp_path / "b")
    assert (tmp_path / "b/manifest.json").read_bytes() == before
    # Without segments nothing of them stays.
    build(tiny_checkpoint, dataclasses.replace(plan, segments=False), tmp_path / "b")
    assert not list((tmp_path / "b/engines").glob("1@4-8*")) or not any((tmp_path / "b/engines/1@4-8").iterdir())


def test_segments_with_stored_noise(tmp_path, tiny_checkpoint):
    plan = Plan("tiny", nets(tiny_checkpoint), ["onnxruntime"], stored_noise=True, segments=True)
    build(tiny_checkpoint, plan, tmp_path / "b")
    runtime = open_bundle(tmp_path / "b")
    assert all(check.passed for check in runtime.verify())
    *_, last = runtime.steps(runtime.codes(1), subnet="1@16", segments=True)
    (whole,) = runtime.steps(runtime.codes(1), subnet="1@16", segments=False)
    assert np.abs(last.image - whole.image).max() < 1e-5


def test_segments_for_gpus_are_checked_by_their_graphs(tmp_path, tiny_checkpoint):
    built = [Variant("onnxruntime_cuda", "fp16", ("cuda",)), Variant("onnxruntime_cuda", "bf16", ("cuda",))]
    manifest = build(tiny_checkpoint, Plan("tiny", nets(tiny_checkpoint), built, segments=True), tmp_path / "b")
    found = [engine for engine in manifest.engines if engine.network.startswith("1@8-")]
    assert [engine.variant for engine in found] == ["onnxruntime_cuda-fp16", "onnxruntime_cuda-bf16"]
    assert all(engine.checked == "graph" for engine in found) and found[0].parity.psnr_db > 60


@pytest.mark.parametrize(
    ("variant", "taken"),
    [
        (Variant("openvino", "bf16"), True),
        (Variant("tensorrt_rtx", "fp16", ("sm_89",)), True),
        (Variant("onnxruntime", "int8"), False),
        (Variant("cuda", "fp16", ("sm_89",)), False),
        (Variant("tensorrt", "fp16", ("sm_89",), fused=True), False),
    ],
)
def test_which_variants_take_them(variant, taken):
    assert takes_segments(variant) is taken


def test_what_cannot_have_segments_is_said_before_anything_is_written(tmp_path, tiny_checkpoint):
    with pytest.raises(BuildError, match="segments are built in fp32, fp16 and bf16"):
        build(
            tiny_checkpoint,
            Plan("x", nets(tiny_checkpoint), [Variant("onnxruntime", "int8")], segments=True),
            tmp_path / "a",
        )
    with pytest.raises(BuildError, match="two or more resolutions"):
        build(tiny_checkpoint, Plan("x", nets(tiny_checkpoint, (8,)), ["onnxruntime"], segments=True), tmp_path / "b")
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_wrong_segment_is_not_kept_and_nothing_is_built_on_it(tmp_path, tiny_checkpoint, monkeypatch, backend):
    """Wrong in its features alone: the link behind shows it."""
    original = compilers.write

    def wrong(traced, variant, folder):
        model = onnx.ModelProto()
        model.CopyFrom(traced.model)
        graph = model.graph
        if variant.backend == backend and [output.name for output in graph.output][1:] == ["features"]:
            for node in graph.node:
                node.input[:] = ["true" if name == "features" else name for name in node.input]
                node.output[:] = ["true" if name == "features" else name for name in node.output]
            graph.node.append(onnx.helper.make_node("Add", ["true", "true"], ["features"]))
        original(dataclasses.replace(traced, model=model), variant, folder)

    monkeypatch.setattr(compilers, "write", wrong)
    plan = Plan("tiny", nets(tiny_checkpoint, (8, 16, 32)), ["onnxruntime", "openvino"], segments=True)
    with pytest.raises(ParityError, match=rf"1@8-16/{backend} failed its parity check"):
        build(tiny_checkpoint, plan, tmp_path / "b")
    kept = {path.parent.name for path in (tmp_path / "b/engines").glob("1@8-16/*/engine.json")}
    assert kept == {"onnxruntime-fp32", "openvino-fp32"} - {f"{backend}-fp32"}
    assert not list((tmp_path / "b/engines").glob(f"1@16-32/{backend}-fp32/engine.json"))


def test_a_manifest_with_broken_chains_is_refused(segmented_bundle, tmp_path):
    manifest = read_manifest(segmented_bundle)[0]
    segments = manifest.generator.segments
    assert json.loads(sealed(manifest))["generator"]["segments"][1]["below"] == "0.5@8"
    for wrong in (
        segments[1:],  # one follows on nothing
        (*segments, segments[0].model_copy(update={"name": "again"})),
        (segments[0].model_copy(update={"subnet": "0.3@8"}), *segments[1:]),
    ):
        values = manifest.model_dump() | {
            "generator": manifest.generator.model_dump() | {"segments": [s.model_dump() for s in wrong]}
        }
        with pytest.raises(ValueError, match="segment"):
            type(manifest).model_validate(values)


def test_a_bundle_of_before_has_no_segments(tiny_bundle):
    values = read_manifest(tiny_bundle)[0].model_dump()
    del values["generator"]["segments"]
    assert type(read_manifest(tiny_bundle)[0]).model_validate(values).generator.segments == ()
