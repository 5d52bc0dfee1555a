"""A job for the workers, and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from anycost.runtime.budget import Budget

Array = np.ndarray[Any, np.dtype[Any]]
Operation = Literal["generate", "edit", "encode", "inpaint", "translate", "infer"]


@dataclass(frozen=True)
class Job:
    """What a client wants.

    | operation | arguments | arrays | arrays of the result |
    |---|---|---|---|
    | generate | seeds (list), psi, noise, noise_seed | or w_plus [N, n_style, dim] | images uint8 [N, R, R, 3] |
    | edit | the same, and values (name: -100..100) | the same | the same |
    | encode | fit | image uint8 [H, W, 3] | w_plus float32 [1, n_style, dim] |
    | inpaint | mask (text), seed | image; mask bool [H, W] instead of the text | image uint8 [H, W, 3] |
    | translate | seeds, fit | image | images uint8 [K, S, S, 3] |
    | infer | | the model's inputs [N, ...] | the model's outputs [N, ...] |

    budget, subnet, backend: what may run, for generate and edit (None: the server's budget); model: the network's name, for
    the others. rows: images of the job. toward: the sub-network that the same codes are wanted of next; where segments lead
    there and are worth it, they are used, and kept is what they came to. segments: they are to be used, from where that is.
    """

    operation: Operation
    arguments: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    rows: int = 1
    budget: Budget | None = None
    subnet: str | None = None
    backend: str | None = None
    model: str | None = None
    toward: str | None = None
    segments: bool = False


@dataclass(frozen=True)
class Result:
    """subnet: empty for networks beside the generator. engine: NETWORK/VARIANT. elapsed_ms: of the engine's call.
    waited_ms: in the queue. batch: rows that shared the call. lowered: whether overload made the sub-network smaller.
    further: sub-networks that go on from this one to the job's ``toward``, in their order; none where it takes a whole run."""

    arrays: Mapping[str, Array]
    subnet: str
    engine: str
    elapsed_ms: float
    waited_ms: float
    batch: int
    lowered: bool = False
    further: tuple[str, ...] = ()
