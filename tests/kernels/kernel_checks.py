"""What tests of kernels share: how near is near, and that a launch compiles for a GPU that is not there."""

import os

import torch

# Float32 sums in another order, relative to the largest result: 1e-5. The result is then rounded once to its type, by at most
# half its epsilon; but to bfloat16 Triton's interpreter cuts off the low bits, which is up to a whole one. (GPUs round.)
_SUMS = 1e-5
BOUNDS = {
    torch.float32: _SUMS,
    torch.float16: torch.finfo(torch.float16).eps / 2 + _SUMS,
    torch.bfloat16: torch.finfo(torch.bfloat16).eps + _SUMS,
}
# Compute capabilities with each type once; bfloat16 begins with 80.
TARGETS = [(sm, torch.float16) for sm in (75, 80, 86, 89, 90, 120)] + [(90, torch.bfloat16), (90, torch.float32)]


def assert_near(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype = torch.float32) -> None:
    """expected: best in float64, from the inputs as rounded to dtype."""
    assert found.shape == expected.shape
    error = (found.double() - expected.double()).abs().max().item()
    largest = expected.abs().max().item()
    assert error <= BOUNDS[dtype] * max(largest, 1e-30), f"{error / largest:.2e} of the largest, {largest:.3g}"


def assert_compiles(call, sm: int):
    """Compiles it to a cubin and returns what Triton made: within the shared memory of any GPU, without scratch memory."""
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {(call.kernel.arg_names.index(name),): value for name, value in call.constants.items()}
    source = ASTSource(call.kernel, call.signature(), constants, call.attributes())
    made = triton.compile(
        source,
        target=GPUTarget("cuda", sm, 32),
        options={"num_warps": call.warps, "num_stages": call.stages},
    )
    assert len(made.asm["cubin"]) > 0
    assert made.metadata.shared <= 48 * 1024
    assert made.metadata.global_scratch_size == 0
    return made
