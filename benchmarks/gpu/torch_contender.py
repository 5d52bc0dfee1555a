"""PyTorch, eager and compiled: what engines are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anycost.benchmarks.gpu.case import Case, Loaded
from anycost.benchmarks.gpu.machine import Call
from anycost.export.deploy import Deployed, StaticSynthesis
from anycost.export.half import HalfSynthesis
from anycost.networks.channels import Subnet
from anycost.networks.stylegan2 import Generator

Array = np.ndarray
Network = Callable[[Tensor], Tensor]


class TorchLoaded:
    def __init__(self, case: Case, network: Network, weights: int):
        self._case, self._network, self._weights = case, network, weights

    def on_device(self, batch: int) -> Call:
        w_plus = torch.from_numpy(self._case.codes(batch)).to(self._case.machine.device)
        return lambda: self._network(w_plus)

    def through_host(self, batch: int) -> Call:
        w_plus = self._case.codes(batch)
        return lambda: self.run(w_plus)

    def run(self, w_plus: Array) -> Array:
        given = torch.from_numpy(w_plus).to(self._case.machine.device)
        return self._network(given).float().cpu().numpy()

    def sizes(self) -> dict[str, int]:
        return {"weights": self._weights}


class TorchContender:
    """PyTorch, eager or compiled. static: the static-weight form of the asked precision, with channels last; else the paper's
    form in float32."""

    def __init__(self, case: Case, *, static: bool, compiled: bool):
        self.case, self._static, self._compiled = case, static, compiled
        self.failed: Mapping[str, str] = {}
        # With half precision asked for, PyTorch's defaults: TF32 in convolutions. Single precision means that for all.
        torch.backends.cudnn.allow_tf32 = case.job.precision != "fp32"

    def load(self, net: Subnet) -> Loaded:
        if self._compiled:
            torch._dynamo.reset()
        return self._loaded(net, None if self._static else self._generator())

    def load_all(self, nets: Sequence[Subnet]) -> list[Loaded]:
        generator = None if self._static else self._generator()
        return [self._loaded(net, generator) for net in nets]

    def notes(self) -> dict[str, Any]:
        form = f"static weights, {self.case.job.precision}, channels last" if self._static else "paper's form, float32"
        tf32 = bool(torch.backends.cudnn.allow_tf32)
        return {"form": form, "tf32 convolutions": tf32, "compiled": "max-autotune" if self._compiled else False}

    def _generator(self) -> Generator:
        return self.case.checkpoint.generator().eval().requires_grad_(False).to(self.case.machine.device)

    def _loaded(self, net: Subnet, generator: Generator | None) -> Loaded:
        if generator is None:
            module: torch.nn.Module = self._static_form(net)
            network: Network = module
        else:
            module = generator

            def network(w_plus: Tensor) -> Tensor:
                found: Tensor = generator.synthesis(w_plus, "stored", net)
                return found

        if self._compiled:
            # With CUDA graphs, which this mode has.
            network = torch.compile(network, mode="max-autotune", dynamic=False)
        weights = sum(x.numel() * x.element_size() for x in (*module.parameters(), *module.buffers()))
        return TorchLoaded(self.case, _without_gradients(network), weights)

    def _static_form(self, net: Subnet) -> torch.nn.Module:
        arch, state, precision = self.case.checkpoint.arch, self._state, self.case.job.precision
        network: Deployed
        if precision == "fp32":
            network = StaticSynthesis(arch, net, state, stored_noise=True)
        else:
            network = HalfSynthesis(arch, net, state, True, precision)
        return network.eval().to(self.case.machine.device, memory_format=torch.channels_last)

    @cached_property
    def _state(self) -> dict[str, Tensor]:
        return self.case.checkpoint.generator().state_dict()


def _without_gradients(network: Network) -> Network:
    def run(w_plus: Tensor) -> Tensor:
        with torch.inference_mode():
            return network(w_plus)

    return run
