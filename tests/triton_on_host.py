"""A Triton kernel as a function of addresses in host memory, run by Triton's interpreter."""

import ctypes

import torch

from anycost.kernels.interpreter import interpreted


def as_function(call):
    """call: one of the kernel's, for its constants and the types of its operands -> function(grid, *arguments)."""

    def run(grid, *values):
        arguments = {}
        for (name, given), value in zip(call.arguments.items(), values, strict=True):
            if not isinstance(given, int):
                # The interpreter takes the address of a tensor, and reads from there on whatever its size.
                memory = (ctypes.c_char * given.dtype.itemsize).from_address(value)
                value = torch.frombuffer(memory, dtype=given.dtype)
            arguments[name] = value
        interpreted(call.kernel)[grid](**arguments, **call.constants)

    return run
