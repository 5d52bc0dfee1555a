"""Plans of TensorRT with their weights inside, as Triton's own backend for them loads them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from anycost.errors import BuildError
from anycost.runtime import backends
from anycost.runtime.cuda.devices import devices

Batch = tuple[int, int, int]


def hindrance() -> str:
    """Why no plan can be built on this machine, empty when one can."""
    if backends.installed("tensorrt") is None:
        return "the package tensorrt is not installed here"
    return "" if devices() else "TensorRT builds on a GPU and none was found here"


def here(model: bytes, batch: Batch) -> bytes:
    """A plan for this machine's first GPU and the TensorRT that is installed; the server has to have the same of both."""
    return full_plan(import_module("tensorrt"), model, batch)


def full_plan(
    trt: ModuleType, model: bytes, batch: Batch, aim: Callable[[ModuleType, Any], None] | None = None
) -> bytes:
    """An ONNX file of any batch as a plan for batches of least, usual and largest size. aim: sets what it is compiled for.

    Raises BuildError.
    """
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)  # what goes wrong is said below
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise BuildError(f"TensorRT does not take the graph: {' '.join(errors.split())[:300]}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32
    if aim:
        aim(trt, config)
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        port = network.get_input(i)
        profile.set_shape(port.name, *((size, *tuple(port.shape)[1:]) for size in batch))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"TensorRT {trt.__version__} could not build the graph: look at what it printed")
    return bytes(plan)
