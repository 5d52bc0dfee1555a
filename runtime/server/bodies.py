"""What requests for images hold, checked by pydantic; its texts are those of /openapi.json."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from anycost.runtime.budget import Budget
from anycost.runtime.latents import LARGEST_SEED
from anycost.runtime.server.jobs import Array
from anycost.runtime.server.pictures import Format

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=4096)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Milliseconds = Annotated[float, Field(gt=0, le=3_600_000, allow_inf_nan=False)]
Noise = Literal["stored", "random", "none"]
Psi = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False, description="Truncation: 1 is none, 0 the mean image.")]
Slider = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
MOST_VALUES = 256


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BudgetBody(Body):
    """Limits on one image; what is left out is not limited. Without any the server's own budget counts."""

    latency_ms: Milliseconds | None = Field(None, description="On the p95 of the engine, at batch 1.")
    memory_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    min_resolution: Side | None = None
    max_resolution: Side | None = None
    max_distance: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="Floor of quality: the largest distance of what /v1/explain ranks by."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_resolution and self.max_resolution and self.min_resolution > self.max_resolution:
            raise ValueError("min_resolution is above max_resolution")
        return self

    def budget(self) -> Budget | None:
        """None where nothing was given."""
        given = self.model_dump(exclude_none=True)
        return Budget(**given) if given else None


class ImageBody(Body):
    """What generate and edit share."""

    psi: Psi = 1.0
    noise: Noise = "stored"
    noise_seed: Seed = 0
    budget: BudgetBody | None = None
    subnet: Name | None = Field(None, description="A sub-network by name, instead of the budget's choice.")
    backend: Name | None = Field(None, description="A backend, or with a precision, such as openvino-fp16.")
    format: Format = Field("png", description="Several images as png, jpeg, webp or json come as base64 in JSON.")
    deadline_ms: Milliseconds | None = None

    def limit(self) -> Budget | None:
        return self.budget.budget() if self.budget else None


class GenerateBody(ImageBody):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"seeds": [0]},
                {"seeds": [1, 2], "psi": 0.7, "budget": {"latency_ms": 60}, "format": "json"},
                {"seeds": [7], "subnet": "0.5@64", "format": "webp"},
            ]
        },
    )

    seeds: Annotated[list[Seed], Field(min_length=1, max_length=256)]


class EditBody(ImageBody):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"seed": 0, "values": {"smiling": 60}, "budget": {"latency_ms": 60}}]},
    )

    seed: Seed | None = None
    w_plus: list[list[Number]] | list[list[list[Number]]] | None = Field(
        None, description="Codes [n_style, dim] or [N, n_style, dim], as of /v1/encode, instead of a seed."
    )
    values: Annotated[dict[Annotated[str, Field(max_length=100)], Slider], Field(max_length=MOST_VALUES)] = Field(
        default_factory=dict, description="Directions, as of /v1/directions, and how far to move along each."
    )

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.seed is None) == (self.w_plus is None):
            raise ValueError("give either seed or w_plus")
        return self

    def codes(self) -> Array | None:
        """float32 [N, n_style, dim]. Raises ValueError for rows of different lengths."""
        if self.w_plus is None:
            return None
        codes = np.array(self.w_plus, np.float32)
        return codes[None] if codes.ndim == 2 else codes
