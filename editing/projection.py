"""Projection: the style code w+ whose image comes nearest to a given one.

The one file of this folder that needs the ``export`` extra (PyTorch): it runs the generator backwards.

Sources: Anycost GAN (Lin et al., arXiv 2103.03243), whose projector runs L-BFGS from the encoder's guess on LPIPS + MSE at
256 px, for consistency summed over sub-networks; Nocedal and Wright, "Numerical Optimization", for L-BFGS and strong-Wolfe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log10

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anycost.errors import InputError
from anycost.export.deploy import bind, static_synthesis, synthesis_bindings
from anycost.networks.channels import Architecture, Subnet, SubnetError
from anycost.networks.stylegan2 import Generator, Noise, fir_kernel

COMPARED = 256  # px at which images are compared, as the published projector does: LPIPS was fitted at such sizes
MOST_STEPS = 10_000
HISTORY = 20  # pairs that L-BFGS keeps; each is two w+
WEIGHTS = (1.0, 1.0)
W_REG = 0.01  # cost 0.3 dB on a photograph that the embedded generator cannot make, and made w+ move a tenth less
LARGEST_PSNR = 100.0


@dataclass(frozen=True)
class Projection:
    """w_plus: [1, n_style, style_dim], the best found. losses: the lowest so far, of the start and after every step, so
    it never rises. psnr_db: of the images clamped to [-1, 1], against the target at the size they were compared at, mean
    over the sub-networks, at most 100. stopped: "converged", "steps" (all were used) or "not finite" (the loss was not).
    """

    w_plus: Tensor
    losses: list[float]
    psnr_db: float
    stopped: str


def project(
    generator: Generator,
    target: Tensor,
    start: Tensor,
    *,
    perceptual: nn.Module,
    nets: Sequence[Subnet] | None = None,
    steps: int = 100,
    weights: tuple[float, float] = WEIGHTS,
    w_reg: float = W_REG,
    noise: Noise = "stored",
    progress: Callable[[str, int, int], None] | None = None,
) -> Projection:
    """Find w+ for a target image [1, 3, R, R] in [-1, 1] by L-BFGS from ``start`` [1, n_style, style_dim].

    The loss is weights[0] * perceptual + weights[1] * MSE + w_reg * mean((w+ - start)^2), the first two averaged over
    ``nets`` (the full network alone where None). Several nets make their images agree; each is compared at its own size,
    ``COMPARED`` at most. What lies beyond white or black where the target is just that is no error: nobody sees it, and
    pictures are full of both ends. perceptual: two images [1, 3, H, W] -> [1], such as ``networks.perceptual.PyramidDistance``.
    w_reg keeps the rows that the loss hardly sees from drifting to where editing directions mean nothing. noise: as
    ``Generator.noise``; "random" is drawn once, from a fixed seed. steps: at most, each of one gradient or a few.
    The same arguments give the same result, and never one worse than the start. progress(what, done, steps).
    Raises InputError.
    """
    _check(generator, target, start, steps, weights, w_reg)
    chosen = _chosen(generator.arch, nets)
    device = generator.input.input.device
    start = start.detach().to(device, torch.float32)
    goal = _Goal(generator, target.detach().to(device, torch.float32), chosen, perceptual, weights, noise)
    descent = _Descent(goal, start, w_reg, steps, progress or (lambda what, done, total: None))
    stopped = descent.run()
    return Projection(descent.best, descent.losses, goal.psnr(descent.best), stopped)


def start_from_mean(generator: Generator, mean_style: Tensor | None = None) -> Tensor:
    """w+ [1, n_style, style_dim] with the mean of w, of style_dim numbers, in every row: the start without an encoder.

    mean_style: the checkpoint's; None estimates it (``Generator.mean_style``).
    """
    mean = generator.mean_style() if mean_style is None else mean_style
    if mean.numel() != generator.arch.style_dim:
        raise InputError(f"mean style {list(mean.shape)}: [1, {generator.arch.style_dim}] was expected")
    return mean.detach().float().reshape(1, 1, -1).repeat(1, generator.arch.n_style, 1)


class _NotFiniteError(Exception):
    """Leaves the optimiser, which has no other way out of its line search."""


class _Goal:
    """The sub-networks with their constants bound once, and the target at each one's size."""

    def __init__(
        self,
        generator: Generator,
        target: Tensor,
        nets: Sequence[Subnet],
        perceptual: nn.Module,
        weights: tuple[float, float],
        noise: Noise,
    ):
        arch, state = generator.arch, generator.state_dict()
        self.perceptual, self.weights, self.nets = perceptual, weights, nets
        self.kernel = fir_kernel(4.0)[None, None].to(target.device)
        seeded = torch.Generator(target.device).manual_seed(0)
        try:
            # Drawn for the whole generator, so that sub-networks share the noise of the layers that they share.
            self.noise = [grain.detach() for grain in generator.noise(noise, arch.full(), 1, seeded)]
        except ValueError as error:
            raise InputError(str(error)) from None
        self.tensors: list[Mapping[str, Tensor]] = []
        with torch.no_grad():
            for net in nets:
                self.tensors.append(bind(synthesis_bindings(arch, net), state))
        self.targets = [_at(target, min(COMPARED, net.resolution)) for net in nets]
        # Only the end that the target is at: a clamp at both would leave no gradient to come back from the wrong one.
        self.lowest = [torch.where(goal <= -1, -1.0, -torch.inf) for goal in self.targets]
        self.highest = [torch.where(goal >= 1, 1.0, torch.inf) for goal in self.targets]

    def images(self, w_plus: Tensor) -> list[Tensor]:
        """One [1, 3, H, H] a sub-network, H as it is compared."""
        found = []
        for i, net in enumerate(self.nets):
            image = static_synthesis(net, self.tensors[i], w_plus, self.noise, self.kernel)[-1]
            image = _at(image, min(COMPARED, net.resolution))
            found.append(image.clamp(self.lowest[i], self.highest[i]))
        return found

    def loss(self, w_plus: Tensor) -> Tensor:
        """Scalar, the mean over the sub-networks."""
        perceptual, mse = self.weights
        total = w_plus.new_zeros(())
        for image, target in zip(self.images(w_plus), self.targets, strict=True):
            if perceptual:
                total = total + perceptual * self.perceptual(image, target).sum()
            if mse:
                total = total + mse * F.mse_loss(image, target)
        return total / len(self.nets)

    @torch.no_grad()
    def psnr(self, w_plus: Tensor) -> float:
        found = []
        for image, target in zip(self.images(w_plus), self.targets, strict=True):
            mse = F.mse_loss(image.clamp(-1, 1), target).item()
            # Where even the start is not finite there is nothing to rate.
            found.append(min(LARGEST_PSNR, 10 * log10(4 / max(mse, 1e-12))) if isfinite(mse) else float("nan"))
        return sum(found) / len(found)


class _Descent:
    """One run of L-BFGS that remembers the best w+ of all it tried: a line search may end on a worse one."""

    def __init__(self, goal: _Goal, start: Tensor, w_reg: float, steps: int, progress: Callable[[str, int, int], None]):
        self.goal, self.start, self.w_reg, self.steps, self.progress = goal, start, w_reg, steps, progress
        self.best = start.clone()
        self.losses: list[float] = []
        self.w = start.clone().requires_grad_()
        self.optimizer = torch.optim.LBFGS(
            [self.w],
            lr=1,
            max_iter=steps,
            max_eval=1000 * steps,  # no limit of its own
            tolerance_grad=1e-7,
            tolerance_change=1e-9,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )

    def run(self) -> str:
        """Why it stopped."""
        try:
            self.optimizer.step(self._evaluate)
        except _NotFiniteError:
            stopped = "not finite"
        else:
            stopped = "steps" if self._step() >= self.steps else "converged"
        self.progress("", self.steps, self.steps)
        return stopped

    def _step(self) -> int:
        """The step under way, counted from 1; 0 for the start."""
        return self.optimizer.state[self.w].get("n_iter", 0)

    def _evaluate(self) -> Tensor:
        """The optimiser's closure: the loss at ``w``, with its gradient in ``w.grad``."""
        with torch.enable_grad():
            loss = self.goal.loss(self.w) + self.w_reg * (self.w - self.start).square().mean()
            # Not backward(): the weights of ``perceptual`` may want gradients, and must not gather any.
            (self.w.grad,) = torch.autograd.grad(loss, self.w)
        value, step = loss.item(), self._step()
        if not self.losses:
            self.losses.append(value)
        if not isfinite(value) or not torch.isfinite(self.w.grad).all():
            raise _NotFiniteError
        if value < self.losses[-1]:
            self.best = self.w.detach().clone()
        while len(self.losses) <= step:
            self.losses.append(self.losses[-1])
            self.progress(f"loss {self.losses[-1]:.4f}", step - 1, self.steps)
        self.losses[-1] = min(self.losses[-1], value)
        return loss


def _chosen(arch: Architecture, nets: Sequence[Subnet] | None) -> list[Subnet]:
    if nets is None:
        return [arch.full()]
    if not nets:
        raise InputError("no sub-network to project with: give one or more, or None for the full network")
    try:
        return [arch.subnet(net.resolution, net.channels, net.name) for net in nets]
    except SubnetError as error:
        raise InputError(str(error)) from None


def _at(image: Tensor, side: int) -> Tensor:
    """Means over the pixels that each smaller one covers, which is antialiased; the sides are powers of two."""
    return image if image.shape[-1] == side else F.interpolate(image, size=(side, side), mode="area")


def _check(
    generator: Generator, target: Tensor, start: Tensor, steps: int, weights: tuple[float, float], w_reg: float
) -> None:
    arch = generator.arch
    side = arch.resolution
    for what, tensor, shape in (
        ("target image", target, [1, 3, side, side]),
        ("start", start, [1, arch.n_style, arch.style_dim]),
    ):
        if list(tensor.shape) != shape or not tensor.is_floating_point():
            raise InputError(f"{what} {tensor.dtype} {list(tensor.shape)}: floating point {shape} was expected")
        if not torch.isfinite(tensor).all():
            raise InputError(f"{what} holds NaN or infinity")
    if target.abs().max() > 1 + 1e-4:
        raise InputError(f"target image has values up to {target.abs().max():g}: they are to be in [-1, 1]")
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        raise InputError(f"steps {steps} is not a whole number from 1 to {MOST_STEPS}")
    if len(weights) != 2 or not all(isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise InputError(
            f"weights {weights}: give two for the perceptual distance and the MSE, not negative, not both 0"
        )
    if not isfinite(w_reg) or w_reg < 0:
        raise InputError(f"w_reg {w_reg:g} is negative or not finite")
