"""What a model repository's config.pbtxt says, as messages of Triton's own schema."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anycost.errors import BackendError

Dims = tuple[int, ...]
Port = tuple[Literal["FP32", "UINT8"], Dims]
Kind = Literal["cpu", "gpu"]
# Of a request with a shape in every position; -1 in dims stands for any.
_WARM_SIDE = 8


@dataclass(frozen=True)
class Serving:
    """How Triton runs models. max_batch: images of one call. delay_us: how long a call waits for more requests. instances: of
    each model, on each GPU or on the CPU. threads: of each instance on the CPU, None for all processors."""

    max_batch: int = 8
    delay_us: int = 2000
    instances: int = 1
    threads: int | None = None


@dataclass(frozen=True)
class Place:
    """kind: what the instances run on. accelerator: ``tensorrt`` for ONNX Runtime's provider. plan: a file of TensorRT's own.
    half: whether the graph is in fp16."""

    kind: Kind = "cpu"
    accelerator: str = ""
    plan: bool = False
    half: bool = False


@dataclass(frozen=True)
class Step:
    """One model of an ensemble: its ports by the ensemble's names of what goes through them."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def schema() -> Any:
    """Triton's model_config_pb2. Raises BackendError where it is not installed."""
    try:
        from tritonclient.grpc import model_config_pb2
    except (ImportError, RuntimeError):  # without its part grpc the package raises the latter
        raise BackendError(
            "a Triton repository needs the package tritonclient with its part grpc: pip install 'anycost-runtime[triton]'"
        ) from None
    return model_config_pb2


def safe_name(name: str) -> str:
    """A name that is the same in a path, an address, a metric and a label: ``0.5@64`` -> ``0_5_at_64``."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name.replace("@", "_at_"))


def model(
    name: str,
    inputs: Mapping[str, Port],
    outputs: Mapping[str, Port],
    serving: Serving,
    place: Place,
    *,
    notes: Mapping[str, str] | None = None,
    waits: bool = True,
) -> Any:
    """A model with a file of its own. notes: kept as parameters. waits: whether its calls wait for more requests: the small steps
    of an ensemble do not, since its network does."""
    pb = schema()
    config = _config(name, inputs, outputs, serving.max_batch)
    config.backend = "tensorrt" if place.plan else "onnxruntime"
    config.default_model_filename = "model.plan" if place.plan else "model.onnx"
    kind = pb.ModelInstanceGroup.KIND_GPU if place.kind == "gpu" else pb.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(kind=kind, count=serving.instances)
    if serving.max_batch > 1:
        sizes = batch_sizes(serving.max_batch)
        delay = serving.delay_us if waits else 0
        config.dynamic_batching.SetInParent()
        config.dynamic_batching.preferred_batch_size.extend(sizes if waits else [])
        config.dynamic_batching.max_queue_delay_microseconds = delay
    if place.accelerator:
        shapes = {
            f"trt_profile_{word}_shapes": ",".join(
                f"{port}:{'x'.join(map(str, (batch, *dims)))}" for port, (_, dims) in inputs.items()
            )
            for word, batch in (("min", 1), ("opt", 1), ("max", serving.max_batch))
        }
        accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name=place.accelerator)
        # It may compute in a type that the graph does not name; none but the graph's own is wanted.
        accelerator.parameters["precision_mode"] = "FP16" if place.half else "FP32"
        accelerator.parameters.update(shapes)
    if place.kind == "cpu" and serving.threads is not None:
        config.parameters["intra_op_thread_count"].string_value = str(serving.threads)
    for key, text in (notes or {}).items():
        config.parameters[key].string_value = text
    for batch in sorted({1, serving.max_batch} if place.kind == "gpu" else {1}):
        warm = config.model_warmup.add(name=f"batch_{batch}", batch_size=batch)
        for port, (kind_of_value, dims) in inputs.items():
            sides = [_WARM_SIDE if side == -1 else side for side in dims]
            value = pb.ModelWarmup.Input(data_type=pb.DataType.Value(f"TYPE_{kind_of_value}"), dims=sides)
            value.random_data = True
            warm.inputs[port].CopyFrom(value)
    return config


def ensemble(
    name: str,
    inputs: Mapping[str, Port],
    outputs: Mapping[str, Port],
    max_batch: int,
    steps: Sequence[Step],
    notes: Mapping[str, str] | None = None,
) -> Any:
    """Models that run one after the other."""
    config = _config(name, inputs, outputs, max_batch)
    config.platform = "ensemble"
    for step in steps:
        added = config.ensemble_scheduling.step.add(model_name=step.model, model_version=-1)
        added.input_map.update(step.inputs)
        added.output_map.update(step.outputs)
    for key, text in (notes or {}).items():
        config.parameters[key].string_value = text
    return config


def text(config: Any) -> str:
    """The file's content."""
    from google.protobuf import text_format

    return text_format.MessageToString(config)


def batch_sizes(largest: int) -> list[int]:
    """Those worth waiting for: 2, 4, 8, ... and the largest."""
    return sorted({2**i for i in range(1, largest.bit_length()) if 2**i <= largest} | {largest})


def _config(name: str, inputs: Mapping[str, Port], outputs: Mapping[str, Port], max_batch: int) -> Any:
    pb = schema()
    config = pb.ModelConfig(name=name, max_batch_size=max_batch)
    for ports, field in ((inputs, config.input), (outputs, config.output)):
        for port, (kind, dims) in ports.items():
            field.add(name=port, data_type=pb.DataType.Value(f"TYPE_{kind}"), dims=dims)
    config.version_policy.latest.num_versions = 1
    return config
