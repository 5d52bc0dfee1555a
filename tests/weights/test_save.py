import subprocess
import sys

import pytest
import torch
from safetensors.torch import load

from anycost.errors import CheckpointError
from anycost.weights.save import save, serialize

TENSORS = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.ones(3, dtype=torch.float16),
    "c": torch.zeros(1, dtype=torch.bfloat16),
}
METADATA = {name: name.upper() for name in ("credit", "network", "arch", "recipe", "é")}


def test_is_read_back():
    found = load(serialize(TENSORS, METADATA))
    assert set(found) == set(TENSORS)
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )


def test_gives_the_same_bytes_in_every_process():
    """The library's own order of the metadata is random in every call."""
    assert len({serialize(TENSORS, METADATA) for _ in range(20)}) == 1
    code = "import sys; sys.path.insert(0, sys.argv[1]); from test_save import *; print(hash(serialize(TENSORS, METADATA)))"
    command = [sys.executable, "-c", code, __file__.rsplit("/", 1)[0]]
    prints = {
        subprocess.run(command, env={"PYTHONHASHSEED": "0"}, capture_output=True, check=True).stdout for _ in range(2)
    }
    assert len(prints) == 1


def test_says_where_it_cannot_write(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(tmp_path / "absent" / "a.safetensors", TENSORS, {})
    assert not list(tmp_path.iterdir())
