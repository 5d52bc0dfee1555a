"""What tests of the convolutions share: operands and bounds."""

import torch

# The largest relative error of one rounding. The interpreter cuts bfloat16 off, where GPUs round to the nearest.
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-7}
# Of the largest result, for sums in float32 whose order differs from the reference's.
SUMS = 1e-5
TYPES = list(ROUNDING)


def random(seed: int, *shape: int, dtype: torch.dtype = torch.float32, least: float | None = None) -> torch.Tensor:
    """Normal, or uniform between ``least`` and 1."""
    generator = torch.Generator().manual_seed(seed)
    if least is not None:
        return least + (1 - least) * torch.rand(shape, generator=generator)
    return torch.randn(shape, generator=generator).to(dtype)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error, in parts of the largest expected value."""
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30)).item()


def assert_within(found: torch.Tensor, expected: torch.Tensor, bound: torch.Tensor | float) -> None:
    """expected: float64 [...]. bound: of the error of each, besides ``SUMS`` of the largest."""
    assert found.shape == expected.shape
    error = (found.double() - expected).abs()
    assert bool((error <= bound + SUMS * expected.abs().max()).all()), f"{relative(found, expected):.1e} of the largest"
