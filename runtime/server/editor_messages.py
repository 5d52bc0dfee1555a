"""What an editor's WebSocket is told and what it tells, and which sub-networks answer.

A message is a JSON object (``Message``); a frame is binary:

    4 bytes   length of the header, big-endian
    header    JSON: id and view of the message, stage, subnet, engine, elapsed_ms, format, width, height, last;
              of errors id, view, stage "error", code, message and, where it may be tried again, retry_after
    bytes     the picture: PNG, or JPEG for large previews; none with an error

``stage`` is "preview", "step" or "final", and ``last`` says that nothing follows.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field, ValidationError, model_validator

from anycost.runtime.budget import Budget
from anycost.runtime.manifest import GeneratorRecord, SubnetRecord
from anycost.runtime.server.bodies import MOST_VALUES, Body, BudgetBody, Name, Number, Psi, Seed, Side, Slider
from anycost.runtime.server.errors import NotFoundError, RequestError, TooLargeError
from anycost.runtime.server.jobs import Array

MOST_TEXT = 1_000_000  # characters of a message: the codes of the largest generator take a quarter of it
SMALL_SIDE = 256  # pixels; up to it, PNG takes a millisecond or two
LARGEST_ID = (1 << 53) - 1  # what JavaScript counts exactly
_LENGTH = struct.Struct(">I")

View = Literal["original", "edited"]


class Message(Body):
    """What a client asks for. Exactly one of seed and w_id; w_plus [n_style, style_dim] comes with the first use of its w_id.

    values: sliders by the direction's name, -100..100. subnet, or resolution and ratio: what draws the preview; without any
    the budget chooses (None: the server's). finalize: whether a picture by the largest sub-network of that ratio follows, or
    by the full network where no ratio was asked for.
    """

    id: Annotated[int, Field(ge=0, le=LARGEST_ID)]
    view: View = "edited"
    seed: Seed | None = None
    w_id: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    w_plus: list[list[Number]] | None = None
    values: dict[str, Slider] = Field(default_factory=dict, max_length=MOST_VALUES)
    psi: Psi = 1.0
    subnet: Name | None = None
    resolution: Side | None = None
    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    budget: BudgetBody | None = None
    finalize: bool = True

    @model_validator(mode="after")
    def _one_source(self) -> Message:
        if (self.seed is None) == (self.w_id is None):
            raise ValueError("give a seed or a w_id, one of the two")
        if self.w_plus is not None and self.w_id is None:
            raise ValueError("w_plus needs a w_id to be kept under")
        if self.subnet is not None and (self.resolution is not None or self.ratio is not None):
            raise ValueError("give a subnet, or a resolution and a ratio, not both")
        return self


@dataclass(frozen=True)
class Plan:
    """first, final: names of sub-networks; first None where the budget chooses within ``budget``."""

    first: str | None
    final: str
    budget: Budget | None


def plan(message: Message, generator: GeneratorRecord) -> Plan:
    """What a message is answered by. Raises NotFoundError for sub-networks that the bundle does not hold."""
    nets = generator.subnets
    full = max(nets, key=lambda net: net.macs)
    limits = message.budget.budget() if message.budget else None
    if message.subnet is not None:
        chosen = next((net for net in nets if net.name == message.subnet), None)
        if chosen is None:
            raise NotFoundError(f"there is no sub-network {message.subnet[:40]!r}: GET /v1/models lists them")
        return Plan(chosen.name, _largest(nets, chosen).name, None)
    if message.ratio is None and message.resolution is None:
        return Plan(None, full.name, limits)
    if message.ratio is None:
        _some(nets, None, message.resolution)
        size = message.resolution
        return Plan(None, full.name, replace(limits or Budget(), min_resolution=size, max_resolution=size))
    held = _some(nets, message.ratio, message.resolution)
    chosen = max(held, key=lambda net: net.resolution)
    return Plan(chosen.name, _largest(nets, chosen).name, None)


def _some(nets: tuple[SubnetRecord, ...], ratio: float | None, resolution: int | None) -> list[SubnetRecord]:
    held = [net for net in nets if ratio in (None, net.ratio) and resolution in (None, net.resolution)]
    if not held:
        asked = [f"ratio {ratio:g}"] if ratio is not None else []
        asked += [f"{resolution} pixels"] if resolution is not None else []
        raise NotFoundError(f"there is no sub-network of {' and '.join(asked)}: GET /v1/models lists them")
    return held


def _largest(nets: tuple[SubnetRecord, ...], like: SubnetRecord) -> SubnetRecord:
    """The largest of a ratio; a flexible sub-network is the only one of its kind."""
    if like.ratio is None:
        return like
    return max((net for net in nets if net.ratio == like.ratio), key=lambda net: net.macs)


def parse(text: str) -> Message:
    """Raises RequestError for what is no message."""
    if len(text) > MOST_TEXT:
        raise TooLargeError(f"a message of {len(text)} characters is above {MOST_TEXT}")
    try:
        return Message.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:40] for part in first["loc"][:3])
        what = first["msg"].removeprefix("Value error, ")
        raise RequestError(f"{where}: {what}" if where else what) from None


def frame(header: Mapping[str, Any], picture: bytes = b"") -> bytes:
    text = json.dumps(header, allow_nan=False).encode()
    return _LENGTH.pack(len(text)) + text + picture


def encoded(image: Array, final: bool) -> tuple[str, bytes]:
    """uint8 [H, W, 3] -> format and bytes. Large previews are JPEG, which is made and sent quickly; the others are exact."""
    file = io.BytesIO()
    if final or max(image.shape) <= SMALL_SIDE:
        Image.fromarray(image).save(file, "PNG", compress_level=1)
        return "png", file.getvalue()
    Image.fromarray(image).save(file, "JPEG", quality=92, subsampling=0)
    return "jpeg", file.getvalue()
