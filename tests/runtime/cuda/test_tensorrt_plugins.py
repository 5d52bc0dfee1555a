"""What a plan keeps of its plugins, and what happens when the library runs them: over a stand-in of both, without a kernel."""

import ctypes
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fake_plugins
import numpy as np
import pytest
from fake_gpu import FakeCuda, at, write_engine
from fake_plugins import Library, TensorRTPhase, stored, tensor

from anycost.errors import BackendError
from anycost.export.fused import PLUGIN_VERSION, PLUGINS
from anycost.runtime.backends import BINDINGS_NAME
from anycost.runtime.backends import tensorrt as backend
from anycost.runtime.cuda.devices import CudaDevice
from anycost.runtime.cuda.plugin_kernels import PluginKernels, PluginRecord
from anycost.runtime.cuda.program import Kernel, Launch, Place
from anycost.runtime.cuda.tensorrt_plugins import (
    CLASSES,
    NAMES,
    VERSION,
    FieldStruct,
    creator_class,
    plugin_class,
    read_field,
    register,
)


def device(target="sm_86"):
    return CudaDevice(0, "a GPU", (int(target[3:-1]), int(target[-1])), 1 << 30, (12, 8))


def record(**changes):
    """y [N, 4] = x [N, 4] * w [4], in two tactics."""
    x, w, y = (Place(region=name) for name in ("x", "w", "out"))
    targets = ("sm_80", "sm_90")

    def kernel(symbol, warps):
        return Kernel(
            symbol=symbol, warps=warps, images={t: f"{symbol}-{t}" for t in targets}, shared=dict.fromkeys(targets, 64)
        )

    fields = {
        "format": "anycost-plugin",
        "format_version": 1,
        "inputs": ("x", "w"),
        "output": "out",
        "targets": targets,
        "kernels": (kernel("plain", 4), kernel("swapped", 8)),
        "tactics": {
            2: Launch(kernel=0, grid=(3, 2, 1), arguments=(x, w, y, 4)),
            5: Launch(kernel=1, grid=(1, 1, 1), arguments=(w, 4, y, x)),
        },
    }
    return PluginRecord(**(fields | changes))


IMAGES = {
    f"{symbol}-{target}": f"{symbol} for {target}".encode()
    for symbol in ("plain", "swapped")
    for target in ("sm_80", "sm_90")
}


def data(**changes):
    return PluginKernels(record(**changes), IMAGES).to_bytes()


def field(content):
    return SimpleNamespace(name="kernels", data=np.frombuffer(content, np.int8), size=len(content))


def gpu():
    cuda = FakeCuda()

    def plain(grid, x, w, out, n):
        at(out, (grid[2], n))[:] = at(x, (grid[2], n)) * at(w, (n,))

    cuda.functions = {
        b"plain for sm_80": plain,
        b"swapped for sm_80": lambda grid, w, n, out, x: plain(grid, x, w, out, n),
    }
    return cuda


def test_a_plan_keeps_all_that_a_run_needs():
    kernels = PluginKernels(record(), IMAGES)
    assert PluginKernels.from_bytes(kernels.to_bytes()) == kernels
    assert kernels.to_bytes() == kernels.to_bytes()
    for broken, said in [
        (b"", "cannot be read"),
        (data()[:-10], "cannot be read"),
        (PluginKernels(record(), {}).to_bytes(), r"no kernel plain-sm_80: rebuild"),
        (data().replace(b'"anycost-plugin"', b'"anycost-plagin"'), "cannot be read: Input should be 'anycost-plugin'"),
    ]:
        with pytest.raises(BackendError, match=said):
            PluginKernels.from_bytes(broken)
    wrong = Launch(kernel=0, grid=(1, 1, 1), arguments=(Place(region="z"),))
    with pytest.raises(ValueError, match="takes 'z' at 0, which is no tensor"):
        record(tactics={1: wrong})
    with pytest.raises(ValueError, match="launches kernel 2 of 2"):
        record(tactics={1: Launch(kernel=2, grid=(1, 1, 1), arguments=())})


@pytest.mark.parametrize("tactic", [2, 5, 0])
def test_a_run_launches_the_kernel_of_its_tactic(tactic):
    trt, cuda = Library(), gpu()
    register(trt, device(), cuda)
    made = trt.create("Finish", TensorRTPhase.RUNTIME, [field(data())])
    if tactic:  # Where the library says none, it is the first.
        made.set_tactic(tactic)
    plugin = made.attach_to_context(None)
    loads = cuda.count("load")
    x, w = np.arange(12, dtype=np.float32).reshape(3, 4), np.array([1, 2, 3, 4], np.float32)
    y = np.full((3, 4), 7, np.float32)
    shape = tensor((3, 4), trt.float32)
    plugin.on_shape_change([shape, tensor((4,), trt.float32)], [shape])
    plugin.enqueue([shape, tensor((4,), trt.float32)], [shape], [x.ctypes.data, w.ctypes.data], [y.ctypes.data], 0, 9)
    np.testing.assert_array_equal(y, x * w)
    # The batch is the last axis of the grid; nothing is loaded in a run, which may be captured.
    code, grid, threads, shared, values = cuda.started[0]
    expected = (b"swapped for sm_80", (1, 1, 3), 256) if tactic == 5 else (b"plain for sm_80", (3, 2, 3), 128)
    assert (code, grid, threads) == expected and shared == 64 and 4 in values
    assert cuda.count("load") == loads and cuda.calls[-1] == ("kernel", code, 9)
    assert cuda.depth == 0
    # Another batch, other addresses.
    z = np.zeros((1, 4), np.float32)
    plugin.enqueue([], [tensor((1, 4), trt.float32)], [x[1:].ctypes.data, w.ctypes.data], [z.ctypes.data], 0, 9)
    np.testing.assert_array_equal(z, x[1:2] * w)


def test_contexts_do_not_share_arguments():
    trt, cuda = Library(), gpu()
    register(trt, device(), cuda)
    made = trt.create("Finish", TensorRTPhase.RUNTIME, [field(data())])
    first, second = made.attach_to_context(None), made.attach_to_context(None)
    assert first.launcher.load(2).arguments is not second.launcher.load(2).arguments
    assert first.launcher.load(2) is first.launcher.load(2) and first.launcher.kernels is second.launcher.kernels
    assert first.clone().launcher is first.launcher and first.clone().plugin_name == "Finish"


def test_what_is_read_can_be_stored_again():
    trt = Library()
    register(trt, device(), gpu())
    made = trt.create("ToRGB", TensorRTPhase.RUNTIME, [field(data())])
    (again,) = stored(made)
    assert again.data.tobytes() == data()
    assert made.get_capability_interface(fake_plugins.PluginCapabilityType.BUILD) is None
    assert made.get_capability_interface(fake_plugins.PluginCapabilityType.RUNTIME) is made


def test_a_library_is_told_once():
    trt, cuda = Library(), gpu()
    plugins = register(trt, device(), cuda)
    assert register(trt, device(), cuda) is plugins
    assert {name for _, name, _ in trt.registry.creators} == set(NAMES) == PLUGINS
    assert {version for *_, version in trt.registry.creators} == {PLUGIN_VERSION} == {VERSION}
    taken = Library()
    taken.registry.creators["anycost", "Finish", "1"] = None
    with pytest.raises(BackendError, match="another plugin anycost::Finish is registered in this process"):
        register(taken, device(), cuda)
    with pytest.raises(BackendError, match=r"TensorRT 8\.6\.1 has no IPluginV3OneCore.*install 10\.3 or later"):
        register(Library("8.6.1", without=["IPluginV3OneCore"]), device(), cuda)


@pytest.mark.parametrize(
    ("content", "target", "said"),
    [
        (data(), "sm_75", r"built for sm_80, sm_90 and a GPU is sm_75: build again with --target sm_75"),
        (b"rubbish", "sm_86", "plugin cannot be read.*rebuild"),
        (None, "sm_86", "has 0 fields"),
    ],
)
def test_why_a_plugin_could_not_be_made_is_kept(content, target, said):
    trt = Library()
    plugins = register(trt, device(target), gpu())
    with pytest.raises(BackendError, match=said):
        trt.create("Finish", TensorRTPhase.RUNTIME, [] if content is None else [field(content)])
    assert re.search(said, plugins.failure)


def test_other_refusals():
    trt = Library()
    register(trt, device(), gpu())
    with pytest.raises(BackendError, match="not made ready for building"):
        trt.create("Finish", TensorRTPhase.BUILD)
    made = trt.create("Finish", TensorRTPhase.RUNTIME, [field(data())])
    with pytest.raises(BackendError, match=r"has tactics \[2, 5\], not 3: rebuild"):
        made.set_tactic(3)
    shared = tuple(k.model_copy(update={"shared": {"sm_80": 120_000, "sm_90": 64}}) for k in record().kernels)
    with pytest.raises(BackendError, match="needs 120000 bytes of shared memory and a block of a GPU may have 101376"):
        trt.create("Finish", TensorRTPhase.RUNTIME, [field(data(kernels=shared))])


def test_a_field_is_read_where_it_lies():
    content = b"0123456789"
    memory = ctypes.create_string_buffer(content, len(content))
    struct = FieldStruct(b"kernels", ctypes.addressof(memory), 3, len(content))
    assert ctypes.sizeof(FieldStruct) == 24 and read_field(struct, "kernels", len(content)) == content
    for name, size in (("kernel", 10), ("kernels", 11)):
        with pytest.raises(BackendError, match=r"pip install 'numpy<2'"):
            read_field(struct, name, size)


CHILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from types import SimpleNamespace
from fake_gpu import FakeCuda
from fake_plugins import Library, TensorRTPhase, tensor
from anycost.runtime.cuda.devices import CudaDevice
from anycost.runtime.cuda.tensorrt_plugins import register

trt, cuda = Library(), FakeCuda()
started = cuda.functions["plain"] = lambda grid, *values: None
register(trt, CudaDevice(0, "a GPU", (8, 6), 1, (12, 8)), cuda)
content = np.fromfile(sys.argv[2], np.int8)
plugin = trt.create("Finish", TensorRTPhase.RUNTIME, [SimpleNamespace(name="kernels", data=content, size=content.size)])
plugin.set_tactic(2)
shape = tensor((5, 4), trt.float32)
plugin.attach_to_context(None).enqueue([shape, shape], [shape], [1000, 2000], [3000], 0, 9)
heavy = [name for name in ("torch", "triton", "onnx") if name in sys.modules]
print(json.dumps([heavy, cuda.started[0][1:]]))
"""


def test_a_plan_is_run_without_pytorch_and_triton(tmp_path):
    (tmp_path / "plugin.bin").write_bytes(data())
    here = Path(__file__).parent
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(here), str(tmp_path / "plugin.bin")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(ran.stdout) == [[], [[3, 2, 5], 128, 64, [1000, 2000, 3000, 4]]]


@pytest.mark.parametrize("plugins", ["none", "compiled", "launched"])
def test_the_backend_registers_what_a_plan_needs(plugins, tmp_path, monkeypatch):
    trt, cuda = Library(), gpu()
    folder = write_engine(tmp_path / "engine", "refit")
    bindings = json.loads((folder / BINDINGS_NAME).read_text())
    (folder / BINDINGS_NAME).write_text(json.dumps(bindings | {"plugins": plugins}))
    seen = []

    def engine(library, *given):
        seen.append(len(trt.registry.creators))
        # What a library does with a plan that it cannot read.
        with pytest.raises(BackendError):
            trt.create("Finish", TensorRTPhase.RUNTIME, [field(b"")])
        raise BackendError("tensorrt: the plan was refused")

    for name, stand_in in (
        ("cuda", lambda ordinal: cuda),
        ("devices", lambda: (device(),)),
        ("device_weights", lambda ordinal: None),
        ("import_module", {"tensorrt": trt}.__getitem__),
        ("TensorRtEngine", engine if plugins == "launched" else lambda *given: seen.append(len(trt.registry.creators))),
    ):
        monkeypatch.setattr(backend, name, stand_in)
    if plugins == "launched":
        with pytest.raises(BackendError, match="a plan's plugin cannot be read"):
            backend.load(folder, None, 1)
    else:
        backend.load(folder, None, 1)
    assert seen == [len(NAMES) if plugins == "launched" else 0]


def test_the_names_exist_in_tensorrt():
    """In a later version: these classes are as they were."""
    types = fake_plugins.published()
    for name, kind in fake_plugins.KINDS.items():
        for member in getattr(kind, "__members__", ()):
            assert re.search(rf"^    {member}: ", types[name], re.MULTILINE), f"{name}.{member}"
    assert set(CLASSES) < set(types)
    trt = Library()
    for name, kind in (
        ("IPluginV3", plugin_class(trt)),
        ("IPluginV3OneRuntime", plugin_class(trt)),
        ("IPluginCreatorV3One", creator_class(trt)),
    ):
        fake_plugins.check_methods(types[name], kind)
