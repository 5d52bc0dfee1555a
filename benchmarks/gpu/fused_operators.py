"""PyTorch's eager mode with the operators that StyleGAN2's own code has fused by hand: FIR filters, and bias with activation."""

from __future__ import annotations

from math import sqrt

from torch import Tensor

from anycost.benchmarks.gpu.case import Case
from anycost.benchmarks.gpu.torch_contender import TorchContender
from anycost.networks import stylegan2


def fused_eager(case: Case) -> TorchContender:
    """The paper's form in float32. It changes the reference network of its process, which is a contender's own."""
    stylegan2.fir = _fir
    stylegan2.StyledConv.forward = _styled  # type: ignore[method-assign]
    return TorchContender(case, static=False, compiled=False)


def _fir(x: Tensor, kernel: Tensor, up: int, pad: tuple[int, int]) -> Tensor:
    from anycost.kernels.upfirdn.launch import upfirdn2d

    return upfirdn2d(x, kernel, up=up, padding=(*pad, *pad))


def _styled(self: stylegan2.StyledConv, x: Tensor, w: Tensor, noise: Tensor, leaving: int) -> Tensor:
    """As the network's own, with one kernel for bias, activation and gain."""
    from anycost.kernels.bias_act.launch import bias_act

    y = self.conv(x, w, leaving) + self.noise.weight * noise
    # The FIR leaves channels last in memory, and this too, so that all layers but the first find nothing to convert.
    y = bias_act(y.permute(0, 2, 3, 1), self.activate.bias[:leaving], dim=-1, act="lrelu", alpha=0.2, gain=sqrt(2))
    return y.permute(0, 3, 1, 2)
