"""Kernels on a CPU, in Triton's interpreter, beside the compiler in the same process.

TRITON_INTERPRET=1 makes all kernels of a process interpreted ones, which cannot be compiled. Here both are had from the same
function: an interpreted copy with interpreted copies of the functions that it calls.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import numpy as np

# Triton imports this when a first kernel starts, and it copies functions that would be interpreted ones by then.
import triton.experimental.gluon  # noqa: F401
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction, InterpreterBuilder, TensorHandle
from triton.runtime.jit import JITFunction


class _Interpreted(InterpretedFunction):
    """Triton's own leaves its language changed after a kernel that calls a function; here what a launch changes, it restores."""

    def run(self, *args: Any, **options: Any) -> None:
        with _library():
            super().run(*args, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.rewrite()(*args, **kwargs)


@cache
def interpreted(kernel: Any) -> Any:
    """kernel: a ``triton.jit`` function -> what runs it on CPU tensors, with the same ``[grid](...)``."""
    if isinstance(kernel, InterpretedFunction):
        return kernel  # TRITON_INTERPRET=1 is set.
    source = kernel.fn
    # The interpreter changes the modules that it finds here; Triton's own functions need the second.
    names = dict(source.__globals__) | {"_language": tl, "_core": tl.core}
    copy = types.FunctionType(source.__code__, names, source.__name__, source.__defaults__, source.__closure__)
    copy.__annotations__ = source.__annotations__
    copy.__module__, copy.__qualname__ = source.__module__, source.__qualname__
    for name in source.__code__.co_names:
        if isinstance(names.get(name), JITFunction):
            names[name] = interpreted(names[name])
    return _Interpreted(copy)


@contextmanager
def _library() -> Iterator[None]:
    """While a kernel runs, ``tl.zeros``, ``tl.sum`` and all that Triton has written in Triton itself are interpreted too."""
    kept = [
        (place, name, value)
        for place in (tl, tl.standard, tl.tensor)
        for name, value in vars(place).items()
        if isinstance(value, JITFunction) and value.fn.__module__ == tl.standard.__name__
    ]
    for place, name, value in kept:
        function = interpreted(value)
        setattr(place, name, _method(function) if place is tl.tensor else function)
    try:
        with mock.patch.object(InterpreterBuilder, "create_dot", _product):
            yield
    finally:
        for place, name, value in kept:
            setattr(place, name, value)


_plain_product = InterpreterBuilder.create_dot


def _product(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
    """NumPy has no bfloat16: Triton keeps its bits as integers, and would multiply those."""
    return _plain_product(builder, _widened(a), _widened(b), *rest)


def _widened(handle: Any) -> Any:
    if handle.dtype.scalar != tl.bfloat16:
        return handle
    return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _method(function: Any) -> Any:
    return lambda *args, **kwargs: function(*args, **kwargs)
