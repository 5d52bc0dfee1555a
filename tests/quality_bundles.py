"""Small bundles and features for tests of measured quality, and work for pools, which other processes import from here:
so that they start quickly, nothing large is imported at the top."""

import json
import os
import signal
import time
from pathlib import Path

from anycost.errors import InputError

SIDE, DIM, ATTRIBUTES = 32, 48, 3
STAGES = [(1, 8), (1, 12)]


def write_predictor(path: Path) -> Path:
    """An attribute predictor of 32 px and 48 features, sure of what it says: random weights, strong differences."""
    import torch

    from anycost.networks.resnet import AttributePredictor
    from anycost.weights.save import save

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AttributePredictor(ATTRIBUTES, STAGES, SIDE).eval()
    with torch.no_grad():
        network.fc.weight.mul_(300)
    arguments = {"attributes": ATTRIBUTES, "stages": STAGES, "size": SIDE}
    save(path, network.state_dict(), {"network": "attributes", "arguments": json.dumps(arguments)})
    return path


def build_small(folder: Path, checkpoint, networks=None, backends=("onnxruntime",)) -> Path:
    """Two sub-networks of a generator, or none."""
    from anycost.export.build import Plan, build

    nets = [checkpoint.arch.subnet(16, 0.25), checkpoint.arch.full()] if checkpoint else []
    build(checkpoint, Plan("small", nets, list(backends), networks=networks or {}), folder)
    return folder


def double(number: int) -> int:
    return 2 * number


def killed_once(marker: str) -> str:
    """Its process is killed unless it was before."""
    path = Path(marker)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def killed(name: str) -> str:
    if name != "harmless":
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def process_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def refused(name: str) -> None:
    if name == "user":
        raise InputError("a user's mistake")
    raise KeyError("a bug")
