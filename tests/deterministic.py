"""The deterministic weights and inputs that the golden outputs were made from, by the rule of the goldens' own README."""

import hashlib
import math

import numpy as np
import torch


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 seeded by a name."""
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    return np.random.RandomState(seed).standard_normal(shape or (1,)).astype(np.float32).reshape(shape)


def state_sha256(module: torch.nn.Module) -> str:
    """Over the float32 bytes of all tensors in the order of their sorted names."""
    state = module.state_dict()
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def golden_input(case: str, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(normal(f"input:{case}:{name}", shape))


def fill(module: torch.nn.Module) -> None:
    """Set every tensor of an Anycost generator; FIR kernels stay as the implementation makes them."""
    state = module.state_dict()
    for name, tensor in state.items():
        if name.endswith("kernel"):
            continue
        x = normal(name, tuple(tensor.shape))
        if tensor.ndim == 1 and name.endswith("weight"):
            x = 0.1 * x
        elif name.endswith("modulation.bias"):
            x = 1 + 0.1 * x
        elif name.startswith("style."):
            # 100 x in the rule's words; the hash agrees only for a division by lr_mul in float32.
            x = x / 0.01 if name.endswith("weight") else x
        elif name.endswith("bias"):
            x = 0.1 * x
        state[name] = torch.from_numpy(x)
    module.load_state_dict(state)


def fill_plain(module: torch.nn.Module) -> None:
    """The goldens' rule for networks of plain layers: convolutions, linear layers and batch norm."""
    state = module.state_dict()
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            state[name] = torch.zeros_like(tensor)
            continue
        x = normal(name, tuple(tensor.shape))
        if name.endswith("running_var"):
            x = 1 + 0.1 * np.abs(x)
        elif tensor.ndim == 1 and name.endswith("weight"):
            x = 1 + 0.1 * x
        elif tensor.ndim >= 2:
            x = x / math.sqrt(math.prod(tensor.shape[1:]))
        else:
            x = 0.1 * x
        state[name] = torch.from_numpy(x)
    module.load_state_dict(state)


def fill_style(module: torch.nn.Module) -> None:
    """The goldens' rule for networks with equalized weights and styles: discriminators and GANs N' Roses."""
    state = module.state_dict()
    for name, tensor in state.items():
        if name.endswith("kernel"):
            continue
        x = normal(name, tuple(tensor.shape))
        mapping = name.startswith(("style.", "mapping."))
        if "_mapping." in name:
            x = x / math.sqrt(tensor.shape[1]) if name.endswith("weight") else 0.1 * x
        elif tensor.ndim == 1 and name.endswith("weight"):
            x = 0.1 * x
        elif name.endswith("modulation.bias"):
            x = 1 + 0.1 * x
        elif mapping:
            x = x / 0.01 if name.endswith("weight") else x
        elif name.endswith("bias"):
            x = 0.1 * x
        state[name] = torch.from_numpy(x)
    module.load_state_dict(state)
