import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from anycost import open as open_bundle
from anycost.errors import BuildError, BundleError, ParityError
from anycost.export import compilers, engines
from anycost.export.build import Plan, build
from anycost.export.trace import trace_mapping, trace_synthesis
from anycost.weights.random_init import random_network

BACKENDS = ["onnxruntime", "openvino"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def plan(checkpoint, **more) -> Plan:
    return Plan("tiny", [checkpoint.arch.subnet(16, 0.25)], BACKENDS, **more)


def test_trace_is_a_checked_onnx_model_with_a_dynamic_batch(tiny_checkpoint):
    net = tiny_checkpoint.arch.full()
    traced = trace_synthesis(tiny_checkpoint.arch, net, tiny_checkpoint.generator().state_dict(), stored_noise=False)
    onnx.checker.check_model(traced.model, full_check=True)
    assert traced.model.opset_import[0].version >= 18
    shapes = {
        x.name: [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] for x in traced.model.graph.input
    }
    assert shapes["w_plus"] == ["batch", 8, 64] and shapes["noise_6"] == ["batch", 1, 32, 32] and len(shapes) == 8
    (output,) = traced.model.graph.output
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["batch", 3, 32, 32]
    # Nothing of the machine that traced it.
    assert str(Path(__file__).parents[2]).encode() not in traced.model.SerializeToString()


def test_engines_agree_with_the_reference_at_any_batch(tiny_bundle, tiny_checkpoint):
    generator = tiny_checkpoint.generator()
    z = np.random.RandomState(5).standard_normal((3, 64)).astype(np.float32)
    runtime = open_bundle(tiny_bundle)
    for net in runtime.subnets:
        for backend in BACKENDS:
            session = runtime.session(net.name, backend)
            with torch.no_grad():
                w_plus = generator.mapping(torch.from_numpy(z))[:, None].expand(-1, 8, -1)
                expected = generator.synthesis(
                    w_plus, net=generator.arch.subnet(net.resolution, list(net.channels))
                ).numpy()
            for batch in (1, 3):
                found = session.image(z[:batch])
                # 1e-4 of the range is 80 dB at worst; float32 gives about 1e-6.
                assert np.abs(found - expected[:batch]).max() <= 1e-5 * np.ptp(expected)


def test_the_bundle_holds_the_weights_once(tiny_bundle):
    weights = (tiny_bundle / "weights/generator.safetensors").stat().st_size
    engines = sum(path.stat().st_size for path in tiny_bundle.glob("engines/*/*/*") if path.suffix in (".onnx", ".bin"))
    assert weights > 4 * sum(np.prod(t) for t in [(64, 64, 3, 3)] * 4)
    # Graphs and FIR filters of 10 engines; the weights of one full sub-network alone would be 0.9 MB.
    assert engines < 0.9e6


def test_a_second_build_rebuilds_nothing_and_changes_nothing(tmp_path, tiny_checkpoint, monkeypatch):
    build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "b")
    before = snapshot(tmp_path / "b")
    monkeypatch.setattr(compilers, "write", lambda *_: pytest.fail("an engine was built again"))
    build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "b")
    assert snapshot(tmp_path / "b") == before


def test_engines_of_other_sources_are_built_again(tmp_path, tiny_checkpoint, monkeypatch):
    one = Plan("tiny", [tiny_checkpoint.arch.subnet(8, 0.25)], ["onnxruntime"])
    build(tiny_checkpoint, one, tmp_path / "b")
    built = []
    write = compilers.write
    monkeypatch.setattr(compilers, "write", lambda traced, *more: (built.append(traced), write(traced, *more)))
    build(tiny_checkpoint, one, tmp_path / "b")
    assert not built
    monkeypatch.setattr(engines, "_sources", lambda: "of another day")
    build(tiny_checkpoint, one, tmp_path / "b")
    assert len(built) == 2  # the mapping and the sub-network


@pytest.mark.parametrize(
    "name",
    ["weights/generator.safetensors", "reference/0.25@16.safetensors", "engines/0.25@16/openvino-fp32/model.xml"],
)
def test_a_damaged_part_is_made_again(tmp_path, tiny_checkpoint, name):
    build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "b")
    before = snapshot(tmp_path / "b")
    damaged = bytearray(before[name])
    damaged[-20] ^= 1
    (tmp_path / "b" / name).write_bytes(bytes(damaged))
    build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "b")
    assert snapshot(tmp_path / "b") == before


def test_another_plan_in_the_same_folder_leaves_nothing_of_the_first(tmp_path, tiny_checkpoint):
    build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "b")
    other = Plan("tiny", [tiny_checkpoint.arch.subnet(8, 1.0)], ["onnxruntime"])
    build(tiny_checkpoint, other, tmp_path / "b")
    names = snapshot(tmp_path / "b")
    assert not [name for name in names if "0.25@16" in name or "openvino" in name]
    assert open_bundle(tmp_path / "b").generate(0).shape == (1, 8, 8, 3)


KILLED = """
import sys
from pathlib import Path
from anycost.export.build import Plan, build
from anycost.weights.random_init import random_checkpoint
checkpoint = random_checkpoint("tiny")
nets = [checkpoint.arch.subnet(16, 0.25)]
build(checkpoint, Plan("tiny", nets, ["onnxruntime", "openvino"]), Path(sys.argv[1]), lambda *at: print(at[1], flush=True))
"""


def test_a_killed_build_goes_on_and_gives_the_same(tmp_path, tiny_checkpoint):
    """kill -9 at each step and a little later, several times, then once to the end: the same bytes as undisturbed."""
    build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "whole")
    folder = tmp_path / "killed"
    for step, delay in ((1, 0.0), (3, 0.0), (4, 0.05), (6, 0.0), (7, 0.03)):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True)
        for line in process.stdout:
            if int(line) >= step:
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
        assert not (folder / "manifest.json").exists()
    build(tiny_checkpoint, plan(tiny_checkpoint), folder)
    assert snapshot(folder) == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wrong_engine_is_not_kept(tmp_path, tiny_checkpoint, monkeypatch, backend):
    """The engine's files are made from another noise strength: a small fault, of the kind that one overlooks."""
    original = compilers.write

    def wrong(traced, variant, folder):
        original(traced, variant, folder)
        if variant.backend == backend and "constants.conv1__strength" in traced.bindings:
            path = folder / "bindings.json"
            found = json.loads(path.read_text())
            items = (
                list(found["initializers"].values())
                if backend == "onnxruntime"
                else [w["binding"] for w in found["weights"]]
            )
            for binding in items:
                if binding["source"] == "conv1.noise.weight":
                    binding["scale"] *= 1.1
            path.write_text(json.dumps(found))

    monkeypatch.setattr(compilers, "write", wrong)
    with pytest.raises(
        ParityError, match=rf"0.25@16/{backend} failed its parity check: PSNR \d+\.\d dB is below 80 dB"
    ):
        build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "b")
    assert not (tmp_path / "b/manifest.json").exists()
    left = [path.parent.name for path in (tmp_path / "b/engines/0.25@16").rglob("engine.json")]
    assert left == [f"{other}-fp32" for other in BACKENDS if other != backend]
    monkeypatch.setattr(compilers, "write", original)
    build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "b")


def test_a_build_that_changes_a_bundle_and_fails_leaves_no_manifest(tmp_path, tiny_checkpoint, monkeypatch):
    """The old manifest would call the new parts damaged."""
    build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "b")
    original = compilers.write

    def fails(traced, variant, folder):
        if variant.backend == "openvino":
            raise BuildError("no more")
        original(traced, variant, folder)

    monkeypatch.setattr(compilers, "write", fails)
    other = Plan("tiny", [tiny_checkpoint.arch.subnet(8, 1.0)], BACKENDS)
    with pytest.raises(BuildError, match="no more"):
        build(tiny_checkpoint, other, tmp_path / "b")
    with pytest.raises(BundleError, match="unfinished build"):
        open_bundle(tmp_path / "b")


def test_stored_noise_is_inside_the_engine(tmp_path, tiny_checkpoint, tiny_bundle):
    folder = tmp_path / "b"
    build(tiny_checkpoint, plan(tiny_checkpoint, stored_noise=True), folder)
    runtime = open_bundle(folder)
    assert all(check.passed for check in runtime.verify())
    same = open_bundle(tiny_bundle).generate([1, 2], subnet="0.25@16")
    assert np.abs(runtime.generate([1, 2]).astype(int) - same).max() <= 1
    with pytest.raises(Exception, match="--noise stored"):
        runtime.generate(1, noise="random")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, tiny_checkpoint):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match=r"thesis\.txt"):
        build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path)
    with pytest.raises(BuildError, match="is a file"):
        build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "thesis.txt")
    assert snapshot(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path, tiny_checkpoint):
    """On a real file system of 1.5 MB where mounting is allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs needs privileges")
    try:
        with pytest.raises(BuildError, match=r"disk of .* is full"):
            build(tiny_checkpoint, plan(tiny_checkpoint), folder / "b")
        left = [path for path in folder.rglob("*") if ".part" in path.name]
        assert not left and not (folder / "b/manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=100m", str(folder)], check=True)
        build(tiny_checkpoint, plan(tiny_checkpoint), folder / "b")
        assert open_bundle(folder / "b").generate(0).any()
    finally:
        subprocess.run(["umount", str(folder)], check=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(tmp_path, tiny_checkpoint):
    tmp_path.chmod(0o500)
    with pytest.raises(BuildError, match="not writable"):
        build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "b")


def test_bundles_can_be_moved(tmp_path, tiny_bundle):
    shutil.copytree(tiny_bundle, tmp_path / "elsewhere")
    assert all(check.passed for check in open_bundle(tmp_path / "elsewhere").verify())


def test_two_builds_do_not_write_into_one_folder(tmp_path, tiny_checkpoint):
    """The second is refused while the first runs, and goes ahead once it has ended or been killed."""
    folder = tmp_path / "b"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    with pytest.raises(BuildError, match="another build"):
        build(tiny_checkpoint, plan(tiny_checkpoint), folder)
    process.kill()
    process.wait()
    process.stdout.close()
    build(tiny_checkpoint, plan(tiny_checkpoint), folder)
    assert all(check.passed for check in open_bundle(folder).verify())


def test_a_folder_that_is_no_build_is_never_cleaned_up(tmp_path, tiny_checkpoint):
    """Folders called weights and reference, and files that end in .part, may be anybody's."""
    for name in ("weights/mine.pt", "reference/mine.txt", "download.part"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text("mine")
    before = snapshot(tmp_path / "mine")
    with pytest.raises(BuildError, match="is no bundle"):
        build(tiny_checkpoint, plan(tiny_checkpoint), tmp_path / "mine")
    assert snapshot(tmp_path / "mine") == before


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["generator"], "generator has a meaning"),
        (["Latents"], "Latents has a meaning"),
        (["mapping"], "called mapping"),
        (["0.25@16"], "called 0.25@16"),
        (["a", "A"], "called a"),
        (["x.part"], "x.part has a meaning"),
    ],
)
def test_names_that_would_collide_are_refused_before_anything_is_written(tmp_path, tiny_checkpoint, names, said):
    small = random_network("mlp-gan", 0, nz=8)
    with pytest.raises(BuildError, match=said):
        build(tiny_checkpoint, plan(tiny_checkpoint, networks=dict.fromkeys(names, small)), tmp_path / "b")
    assert not list((tmp_path / "b").iterdir())


def test_changed_labels_give_the_bytes_of_a_fresh_build(tmp_path):
    small = random_network("mlp-gan", 0, nz=8)
    named = dataclasses.replace(small, metadata={"credit": "somebody"})
    for folder, checkpoint in (("a", small), ("a", named), ("b", named)):
        build(None, Plan("x", [], ["onnxruntime"], networks={"mlp": checkpoint}), tmp_path / folder)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_engines_keep_the_epsilons(tiny_bundle, tiny_checkpoint, backend):
    """1e-8 under the roots of the mapping and of the demodulation: at a zero latent and at zero styles it is all there is,
    and an exporter that drops it gives NaN there and wrong values near it."""
    runtime = open_bundle(tiny_bundle)
    generator = tiny_checkpoint.generator()
    for z in (np.zeros((1, 64)), np.full((1, 64), 1e-5), np.full((1, 64), 1e-3)):
        z = z.astype(np.float32)
        with torch.no_grad():
            expected = generator.mapping(torch.from_numpy(z)).numpy()
        assert np.abs(runtime.mapping(z, backend=backend) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert runtime.generate(z=np.zeros((1, 64)), backend=backend).std() > 1


def test_every_root_of_a_traced_graph_has_something_added(tiny_checkpoint):
    arch, state = tiny_checkpoint.arch, tiny_checkpoint.generator().state_dict()
    for traced in (trace_mapping(arch, state), trace_synthesis(arch, arch.full(), state, stored_noise=False)):
        made_by = {output: node.op_type for node in traced.model.graph.node for output in node.output}
        roots = [node for node in traced.model.graph.node if node.op_type == "Sqrt"]
        assert roots and all(made_by[node.input[0]] == "Add" for node in roots)
