"""Genuine-looking NVIDIA pickles read without their source, and hostile files refused without running or filling anything."""

import json
import os
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from hostile import hostile
from hostile_torch import torch_files
from torch import nn

from anycost.errors import CheckpointError
from anycost.weights.formats import read_content
from anycost.weights.pickles import read_pickle, state_of

READERS = {"read_pickle": "anycost.weights.pickles", "read": "anycost.weights.checkpoint"}


class EasyDict(dict):
    """As far as pickles see it."""


EasyDict.__module__ = "dnnlib.util"


class Persistent(nn.Module):
    """A class under NVIDIA's ``persistent_class``: pickled with its source, to be executed by their loader."""

    source = ""

    def __init__(self):
        super().__init__()
        self.weight_gain, self.activation, self.sides = np.float64(0.25), "lrelu", {4: 8, 8: np.float32(0.5)}
        self._init_args, self._init_kwargs = (), EasyDict(w_dim=512, conv_clamp=None, dtype=torch.float32)

    def __reduce__(self):
        from torch_utils import persistence

        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": "Generator",
            "state": self.__dict__,
        }
        return persistence._reconstruct_persistent_obj, (meta,), None


@pytest.fixture
def nvidia(monkeypatch):
    """The modules that NVIDIA's pickles name, there only while a test writes one."""

    def rebuild(meta):
        raise AssertionError("nothing may call this")

    rebuild.__module__, rebuild.__qualname__ = "torch_utils.persistence", "_reconstruct_persistent_obj"
    for module in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util"):
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    sys.modules["torch_utils"].persistence = sys.modules["torch_utils.persistence"]
    sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj = rebuild
    sys.modules["dnnlib.util"].EasyDict = EasyDict


def network(source: str) -> Persistent:
    """One of each thing that networks hold."""
    whole, layer = Persistent(), Persistent()
    Persistent.source = source
    layer.weight = nn.Parameter(torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last))
    layer.register_parameter("bias", None)
    layer.noise_strength = nn.Parameter(torch.randn([]))
    layer.register_buffer("halves", torch.randn(5, 6).half()[:, 1:3])
    layer.register_buffer("numbers", torch.arange(6).view(2, 3).t())
    layer.register_buffer("empty", torch.zeros(0, 3))
    layer.taps = np.arange(6.0).reshape(2, 3).T
    whole.synthesis = layer
    whole.register_buffer("w_avg", torch.randn(4).bfloat16())
    return whole.eval()


def test_reads_nvidia_pickles_and_never_runs_their_source(tmp_path, nvidia):
    path, ran = tmp_path / "network-snapshot.pkl", tmp_path / "ran"
    for protocol in (3, 4):
        original = network(f"open({str(ran)!r}, 'w')\n" * 3)
        snapshot = {
            "G": original,
            "G_ema": original,
            "D": None,
            "training_set_kwargs": EasyDict(path="a", sizes=[1, (2.5, True)]),
        }
        with path.open("wb") as file:
            pickle.dump(snapshot, file, protocol)
        found = read_pickle(path)
        assert found["training_set_kwargs"] == {"path": "a", "sizes": [1, (2.5, True)]} and found["D"] is None
        assert found["G_ema"]["class_name"] == "Generator"
        state = found["G_ema"]["state"]
        assert state["weight_gain"] == 0.25 and state["sides"] == {4: 8, 8: 0.5} and not state["training"]
        assert state["_init_kwargs"] == {"w_dim": 512, "conv_clamp": None, "dtype": "torch.float32"}
        assert torch.equal(state["_modules"]["synthesis"]["state"]["taps"], torch.arange(6.0).double().view(2, 3).t())
        tensors = state_of(found["G_ema"])
        assert tensors.keys() == original.state_dict().keys()
        for key, expected in original.state_dict().items():
            assert torch.equal(tensors[key], expected) and tensors[key].dtype == expected.dtype
            assert tensors[key].is_contiguous() and not tensors[key].requires_grad
        content = read_content(path)
        assert list(content.groups) == ["G", "G_ema"] and content.kind == "nvidia pickle"
        assert content.groups["G_ema"].keys() == tensors.keys()
        assert str(ran).encode() in path.read_bytes()
    assert not ran.exists()


@pytest.mark.parametrize("kept", [i / 24 for i in range(1, 24)] + [0.9999])
def test_refuses_truncated_pickles(tmp_path, nvidia, kept):
    path = tmp_path / "a.pkl"
    whole = pickle.dumps({"G_ema": network("x = 1\n" * 50)}, 4)
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CheckpointError, match=r"a\.pkl"):
        read_pickle(path)


def test_large_pickles_take_no_more_than_their_bytes(tmp_path, nvidia):
    """Many storages: each is copied once, and two readings of one file do not share memory."""
    path, whole = tmp_path / "a.pkl", Persistent()
    for i in range(300):
        whole.register_buffer(f"b{i}", torch.full((100,), float(i)))
    path.write_bytes(pickle.dumps({"G_ema": whole}, 4))
    first, second = (state_of(read_pickle(path)["G_ema"]) for _ in range(2))
    first["b7"].zero_()
    assert torch.equal(second["b7"], torch.full((100,), 7.0)) and len(second) == 300


@pytest.mark.parametrize(
    "value", [None, {}, {"class_name": "A", "state": []}, {"class_name": "A", "state": {"_modules": 1}}]
)
def test_state_of_refuses_what_is_no_network(value):
    with pytest.raises(CheckpointError, match="pickled network"):
        state_of(value)


# Each file in a process of its own, that the system ends where a hash or a copy would not let Python stop it.
MEASURE = """
import importlib, json, os, resource, sys, time
from pathlib import Path
from anycost.errors import CheckpointError
import torch
torch.set_num_threads(1)
read = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])

def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)

def measure(path):
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30),) * 2)  # the test asks for less; this guards the machine
    resource.setrlimit(resource.RLIMIT_CPU, (3, 3))
    before, started, said = memory(), time.process_time(), ""
    try:
        read(path)
    except CheckpointError as error:
        said = str(error)
    took, grown = time.process_time() - started, memory() - before
    print(json.dumps([path.name, said, took, grown, os.path.exists(sys.argv[4])]), flush=True)

for path in sorted(Path(sys.argv[3]).iterdir()):
    child = os.fork()
    if not child:
        try:
            measure(path)
        finally:
            os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(json.dumps([path.name, "", 3, 0, False]), flush=True)
"""


@pytest.fixture(scope="module", params=READERS)
def measured(request, tmp_path_factory):
    """What one reader says of each hostile file, its seconds, GiB grown and whether something ran, from one process."""
    folder = tmp_path_factory.mktemp("hostile")
    ran = folder / "ran"
    (folder / "files").mkdir()
    for file, content in (hostile(str(ran)) | torch_files()).items():
        (folder / "files" / file).write_bytes(content)
    command = [sys.executable, "-c", MEASURE, READERS[request.param], request.param, str(folder / "files"), str(ran)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return {line[0]: line[1:] for line in map(json.loads, done.stdout.splitlines())} | {"stderr": done.stderr}


@pytest.mark.parametrize("file", hostile("x") | torch_files())
def test_hostile_files_are_refused(measured, file):
    assert file in measured, measured["stderr"]
    said, seconds, grown, ran = measured[file]
    assert not ran
    assert file in said and "\n" not in said and len(said) < 700
    assert seconds < 1 and grown < 1
