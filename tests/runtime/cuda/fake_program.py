"""A small program for ``FakeCuda``: y [N, 6] = (x * w + b) * 2, in two steps with several alternatives and one prepared region.

Step ``scale`` writes h = x * w2 (w2 = 2 w is prepared, or w itself is doubled on the way, over a region of its own); step
``shift`` writes y = h + 2 b.
"""

import numpy as np
from fake_gpu import at

from anycost.runtime.binding import Binding
from anycost.runtime.cuda.program import Choice, Kernel, Launch, Part, Place, Program, Region, Step, write_program

N = 6
SYMBOLS = ("double", "scale", "scale_parts", "sum_parts", "scale_wrong", "shift")
WEIGHTS = {"w": np.arange(1, N, dtype=np.float32) / 4, "b": np.arange(N, dtype=np.float32)}


def expected(x):
    """The sixth weight is the zero of the padding."""
    return (x * np.append(WEIGHTS["w"], 0).astype(np.float32) + WEIGHTS["b"]) * 2


def bind(binding):
    return WEIGHTS[binding.source].astype(binding.dtype)


def launch(symbol, *arguments, grid=(1, 1, 1)):
    def argument(given):
        if isinstance(given, int):
            return given
        return Place(region=given[0], offset=given[1]) if isinstance(given, tuple) else Place(region=given)

    made = [argument(given) for given in arguments]
    return Launch(kernel=SYMBOLS.index(symbol), grid=grid, arguments=tuple(made))


def binding(name):
    shape = WEIGHTS[name].shape
    return Binding(source=name, take=shape, shape=shape)


def program(**changes):
    scratch = {"kind": "scratch", "dtype": "float32"}
    regions = (
        Region(name="x", kind="input", dtype="float32", shape=(1, N)),
        Region(name="y", kind="output", dtype="float32", shape=(1, N)),
        Region(
            name="weights",
            kind="weight",
            dtype="float32",
            shape=(64 + N,),
            shared=True,
            parts=(Part(binding=binding("w"), shape=(N,)), Part(binding=binding("b"), offset=64, shape=(N,))),
        ),
        Region(name="two", kind="table", dtype="float32", shape=(1,), shared=True, values=(2.0,)),
        Region(name="w2", kind="prepared", dtype="float32", shape=(N,), shared=True),
        Region(name="h", shape=(1, N), **scratch),
        Region(name="parts", shape=(1, 2, N), **scratch),
    )
    targets = ("sm_80", "sm_86", "sm_90")

    def kernel(symbol):
        # One that needs more shared memory than sm_86 has.
        has = {
            t: 120_000 if symbol == "scale_parts" else 64 for t in targets if (symbol, t) != ("scale_parts", "sm_86")
        }
        return Kernel(symbol=symbol, warps=4, images={t: f"{symbol}-{t}" for t in has}, shared=has)

    scale = (
        Choice(label="prepared", launches=(launch("scale", "x", "w2", "h", N),)),
        Choice(
            label="parts",
            launches=(
                launch("scale_parts", "x", "weights", "parts", N, grid=(1, 2, 1)),
                launch("sum_parts", "parts", "h", N),
            ),
        ),
        Choice(label="wrong", launches=(launch("scale_wrong", "x", "w2", "h", N),)),
    )
    fields = {
        "format": "anycost-program",
        "format_version": 1,
        "precision": "fp32",
        "max_batch": 4,
        "targets": targets,
        "inputs": ("x",),
        "outputs": ("y",),
        "regions": regions,
        "kernels": tuple(kernel(symbol) for symbol in SYMBOLS),
        "prepare": (
            Step(name="double", choices=(Choice(label="", launches=(launch("double", "weights", "two", "w2", N),)),)),
        ),
        "steps": (
            Step(name="scale", choices=scale),
            Step(
                name="shift",
                choices=(Choice(label="", launches=(launch("shift", "h", ("weights", 64), "two", "y", N),)),),
            ),
        ),
    }
    return Program(**(fields | changes))


def functions():
    """The kernels, over host memory. The last grid axis is the batch."""

    def double(grid, w, two, out, n):
        assert grid == (1, 1, 1)
        at(out, (n,))[:] = at(w, (n,)) * at(two, (1,))

    def scale(grid, x, w, out, n):
        at(out, (grid[2], n))[:] = at(x, (grid[2], n)) * at(w, (n,))

    def scale_parts(grid, x, w, out, n):
        at(out, (grid[2], 2, n))[:] = (at(x, (grid[2], n)) * at(w, (n,)))[:, None]

    def sum_parts(grid, parts, out, n):
        at(out, (grid[2], n))[:] = at(parts, (grid[2], 2, n)).sum(1)

    def scale_wrong(grid, x, w, out, n):
        # All but the last image.
        at(out, (grid[2], n))[:-1] = (at(x, (grid[2], n)) * at(w, (n,)))[:-1]

    def shift(grid, x, b, two, out, n):
        at(out, (grid[2], n))[:] = at(x, (grid[2], n)) + at(b, (n,)) * at(two, (1,))

    return {name: found for name, found in locals().items() if name in SYMBOLS}


def write(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    made = program(**changes)
    images = {entry: entry.encode() for kernel in made.kernels for entry in kernel.images.values()}
    write_program(made, images, folder)
    return folder
