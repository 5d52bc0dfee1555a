"""Reading the weights of a network: what kind of file and network it is is told from its content, never from its name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anycost.errors import CheckpointError
from anycost.networks.channels import Architecture
from anycost.networks.kinds import Arguments
from anycost.networks.registry import BY_NAME, STYLEGAN2
from anycost.networks.stylegan2 import Generator, fir_kernel
from anycost.weights.formats import one_line, read_content
from anycost.weights.generator_shape import infer
from anycost.weights.select import select

MEAN_STYLE = "mean_style"
# Constants of an implementation that some files hold and others leave out.
_KERNELS = (".kernel",)
_COUNTERS = (".num_batches_tracked",)
# Networks that average over the picture at their end: no shape of a tensor tells its side.
_SIZED = ("encoder", "attributes")
_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_ENLARGING = (".blur.kernel", ".upsample.kernel")  # their FIR has gain 4, a shrinking one has gain 1


@dataclass(frozen=True)
class NetworkCheckpoint:
    """Any network's tensors under the published names, in the file's own float type, checked against what the network has.

    network: name of its kind. arguments: what the kind's ``make`` takes. source: the file's name. sha256: of the file.
    """

    tensors: dict[str, Tensor]
    network: str
    arguments: Arguments
    source: str
    sha256: str
    metadata: dict[str, str] = field(default_factory=dict)

    def module(self) -> nn.Module:
        """The reference network with these weights, float32, in evaluation mode."""
        network = BY_NAME[self.network].make(**self.arguments)
        return _loaded(network, self.tensors)

    def described(self) -> dict[str, str]:
        """Metadata for a safetensors file that holds these tensors: all that was known, the network and its arguments."""
        return self.metadata | {"network": self.network, "arguments": json.dumps(self.arguments, sort_keys=True)}

    @property
    def labels(self) -> tuple[str, ...]:
        """What the outputs are called, where the file or the kind says it and the number agrees."""
        named = _parsed(self.metadata, "labels")
        outputs = self.arguments.get("tags", self.arguments.get("attributes", 40))
        for labels in (named, BY_NAME[self.network].labels):
            if isinstance(labels, list | tuple) and labels and len(labels) == outputs:
                return tuple(str(label) for label in labels)
        return ()


@dataclass(frozen=True)
class Checkpoint:
    """An elastic generator's tensors under the published names, in the file's own float type, checked against ``arch``.

    source: the file's name. sha256: of the file. mean_style: [1, style_dim] where the file has it.
    """

    tensors: dict[str, Tensor]
    arch: Architecture
    source: str
    sha256: str
    mean_style: Tensor | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def generator(self) -> Generator:
        """The reference network with these weights, float32, in evaluation mode."""
        network = Generator(**asdict(self.arch))
        _loaded(network, self.tensors)
        return network

    def described(self) -> dict[str, str]:
        """Metadata for a safetensors file that holds these tensors: all that was known, the network and its arguments."""
        return self.metadata | {"network": STYLEGAN2, "arguments": json.dumps(asdict(self.arch), sort_keys=True)}

    def stored(self) -> dict[str, Tensor]:
        """The tensors for such a file, the mean style among them."""
        return self.tensors | ({} if self.mean_style is None else {MEAN_STYLE: self.mean_style})


def read_any(path: str | Path, key: str | None = None) -> Checkpoint | NetworkCheckpoint:
    """Read any network from any file: safetensors, PyTorch's files (Anycost GAN's, rosinality's, GANs N' Roses', plain state
    dicts) and NVIDIA's StyleGAN2 pickles.

    key: which of the networks in the file (``g_ema``, ``G_B2A_ema``, ...); by default a generator's averaged weights, else
    the first that is known. Raises CheckpointError, one line: not a file, empty, truncated, of an unknown kind, asking to
    run code, or the first tensor that is missing, unexpected, misshapen, not floating point, or not finite.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: give the path of a .pt or .safetensors file, or a model's name")
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: give the path of a .pt or .safetensors file")
    try:
        content = read_content(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}") from None
    selected = select(content, path.name, key)
    tensors, metadata = selected.tensors, dict(content.metadata)
    if selected.key:
        metadata["key"] = selected.key
    if selected.network != STYLEGAN2:
        return _network(tensors, selected.network, path.name, sha256, metadata)
    mean = tensors.pop(MEAN_STYLE, None)
    arch = infer(tensors, _arguments(metadata), path.name)
    check(tensors, _meta(lambda: Generator(**asdict(arch))), path.name, f"a generator of {arch.resolution} px")
    if mean is not None and (
        mean.dtype not in _TYPES or mean.numel() != arch.style_dim or not torch.isfinite(mean.float()).all()
    ):
        raise CheckpointError(
            f"{path.name}: {MEAN_STYLE} is {mean.dtype} {list(mean.shape)}, not finite numbers [1, {arch.style_dim}]"
        )
    return Checkpoint(tensors, arch, path.name, sha256, None if mean is None else mean.float().reshape(1, -1), metadata)


def read(path: str | Path, key: str | None = None) -> Checkpoint:
    """``read_any`` for an elastic generator. Raises CheckpointError as well when the file holds another network."""
    found = read_any(path, key)
    if isinstance(found, NetworkCheckpoint):
        raise CheckpointError(
            f"{found.source} holds a network of kind {found.network}: an elastic StyleGAN2 generator was expected"
        )
    return found


def _network(
    tensors: dict[str, Tensor], name: str, source: str, sha256: str, metadata: dict[str, str]
) -> NetworkCheckpoint:
    kind = BY_NAME[name]
    tensors = kind.prepare(tensors)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    try:
        arguments = kind.infer(shapes) | (_size(metadata, source) if name in _SIZED else {})
        expected = _meta(lambda: kind.make(**arguments))
    except (LookupError, ValueError, TypeError, RuntimeError, ArithmeticError):
        raise CheckpointError(
            f"{source}: the shapes of its tensors are of no {kind.title}: the file is incomplete or of another network"
        ) from None
    tensors = _without_unused(tensors, expected)
    check(tensors, expected, source, f"a network of kind {name}")
    kept = {key: tensor for key, tensor in tensors.items() if not key.endswith(_COUNTERS)}
    return NetworkCheckpoint(kept, name, arguments, source, sha256, metadata)


def _size(metadata: Mapping[str, str], source: str) -> Arguments:
    """The side in pixels that a converted file states; nothing where it states none, as published files do not."""
    size = _arguments(metadata).get("size")
    if size is None:
        return {}
    if type(size) is not int or size % 32 or not 32 <= size <= 1024:
        raise CheckpointError(
            f"{source}: its metadata state pictures of size {size!r:.40}: a multiple of 32 from 32 to 1024 was expected"
        )
    return {"size": size}


def _without_unused(tensors: dict[str, Tensor], expected: nn.Module) -> dict[str, Tensor]:
    """Without the running statistics that old PyTorch saved for instance norms, which have no use for them."""
    norms = [name for name, module in expected.named_modules() if isinstance(module, nn.InstanceNorm2d)]
    unused = {f"{name}.{end}" for name in norms for end in ("running_mean", "running_var", "num_batches_tracked")}
    return {name: tensor for name, tensor in tensors.items() if name not in unused}


def _meta(make: Any) -> nn.Module:
    with torch.device("meta"):
        return make()


def _arguments(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a converted file says of its network; nothing where it says nothing that can be read."""
    found = _parsed(metadata, "arguments")
    return found if isinstance(found, dict) else {}


def _parsed(metadata: Mapping[str, str], name: str) -> Any:
    """A value of the metadata, None where it is not JSON; a file may say anything."""
    try:
        return json.loads(metadata.get(name, "null"))
    except (ValueError, RecursionError):
        return None


def _loaded(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
    return network.eval().requires_grad_(False)


def check(tensors: Mapping[str, Tensor], expected: nn.Module, source: str, what: str) -> None:
    """Raises CheckpointError that names the first tensor that differs from what the network has."""
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.state_dict().items()}
    for name, shape in shapes.items():
        if name not in tensors:
            if _optional(name):
                continue
            raise CheckpointError(f"{source}: tensor {name} of shape {list(shape)} is missing")
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{source}: tensor {name} has shape {list(tensors[name].shape)}: {list(shape)} was expected"
            )
    for name, tensor in tensors.items():
        if name not in shapes:
            raise CheckpointError(f"{source}: tensor {name} of shape {list(tensor.shape)} is unexpected in {what}")
        if name.endswith(_COUNTERS):
            continue
        if tensor.dtype not in _TYPES:
            raise CheckpointError(
                f"{source}: tensor {name} holds {tensor.dtype}: float16, bfloat16, float32 or float64 was expected"
            )
        if not tensor.numel():
            raise CheckpointError(f"{source}: tensor {name} of shape {list(tensor.shape)} is empty")
        # As they will be used: what float64 holds may be too large for float32.
        wrong = int((~torch.isfinite(tensor.float())).sum())
        if wrong:
            raise CheckpointError(
                f"{source}: tensor {name} holds {wrong} NaN or infinite values: the training run or the file is broken"
            )
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise CheckpointError(f"{source}: tensor {name} holds negative variances: the file is broken")
        gain = 4.0 if name.endswith(_ENLARGING) else 1.0
        if name.endswith(_KERNELS) and not torch.allclose(tensor.float(), fir_kernel(gain), atol=1e-3):
            raise CheckpointError(
                f"{source}: tensor {name} is not the FIR filter [1, 3, 3, 1] at gain {gain:g}: other filters are not "
                "supported"
            )


def _optional(name: str) -> bool:
    return name.endswith((*_KERNELS, *_COUNTERS))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, float types, shapes and values, for weights that come from no file."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        # As bytes: NumPy has no bfloat16.
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
