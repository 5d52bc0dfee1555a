"""The Open Inference Protocol, version 2, over HTTP: what ``tritonclient.http`` and KServe's clients speak.

Models: ``generator`` (codes or seeds to images, the engine chosen by the budget), every sub-network by its name, ``mapping``,
and every part of the networks beside the generator. One version, "1". Tensors as JSON or as bytes, both ways.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request
from pydantic import ValidationError
from starlette.responses import Response

from anycost._version import __version__
from anycost.runtime.latents import check_psi
from anycost.runtime.manifest import MAPPING
from anycost.runtime.server.answers import json_response
from anycost.runtime.server.bodies import BudgetBody
from anycost.runtime.server.errors import NotFoundError, RequestError
from anycost.runtime.server.jobs import Array, Job
from anycost.runtime.server.routes.health import is_ready, live, ready
from anycost.runtime.server.service import Service, service_of
from anycost.runtime.server.tensors import Answer, Call, Port, read_call, write_answer

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

VERSION = "1"
GENERATOR = "generator"
LENGTH_HEADER = "Inference-Header-Content-Length"
_SEEDS = ("INT64", "INT32", "UINT64", "UINT32")
ModelName = Annotated[str, Path(max_length=200)]


class Model:
    """A model's ports. flexible: its inputs are alternatives, of which one is given."""

    def __init__(self, name: str, inputs: Sequence[Port], outputs: Sequence[Port], *, flexible: bool = False):
        self.name, self.inputs, self.outputs, self.flexible = name, tuple(inputs), tuple(outputs), flexible


def find(service: Service, name: str) -> Model:
    """Raises NotFoundError."""
    generator = service.generator
    if generator is not None:
        form = generator.architecture
        codes = Port("w_plus", "FP32", (-1, form.n_style, form.style_dim))
        if name == GENERATOR:
            return Model(
                name, [codes, Port("seeds", "INT64", (-1,))], [Port("images", "UINT8", (-1, -1, -1, 3))], flexible=True
            )
        if name == MAPPING:
            return Model(name, [Port("z", "FP32", (-1, form.style_dim))], [Port("w", "FP32", (-1, form.style_dim))])
        for net in generator.subnets:
            if net.name == name:
                return Model(name, [codes], [Port("image", "FP32", (-1, 3, net.resolution, net.resolution))])
    found = service.bundle.part(name)
    if found is None:
        raise NotFoundError(f"there is no model {name[:80]!r}: POST /v2/repository/index lists them")
    part = next(part for part in found[0].parts if part.name == name)
    ports = [[Port(port.name, "FP32", (-1, *port.shape)) for port in side] for side in (part.inputs, part.outputs)]
    return Model(name, ports[0], ports[1])


def names(service: Service) -> list[str]:
    found = [part.name for network in service.bundle.manifest.networks for part in network.parts]
    if service.generator is not None:
        found = [GENERATOR, MAPPING, *(net.name for net in service.generator.subnets), *found]
    return found


@router.get("", summary="The server")
async def server() -> Response:
    body = {"name": "anycost", "version": __version__, "extensions": ["binary_tensor_data", "model_repository"]}
    return json_response(body)


# The same answers as at /health.
router.get("/health/live", summary="200 while the process runs")(live)
router.get("/health/ready", summary="200 while requests are taken and a worker can run them")(ready)


@router.post("/repository/index", summary="Names of all models")
async def index(request: Request) -> Response:
    state = "READY" if is_ready(request) else "UNAVAILABLE"
    listed = [{"name": name, "version": VERSION, "state": state, "reason": ""} for name in names(service_of(request))]
    return json_response(listed)


@router.get("/models/{name}", summary="A model's inputs and outputs")
@router.get("/models/{name}/versions/{version}", include_in_schema=False)
async def metadata(request: Request, name: ModelName, version: str = VERSION) -> Response:
    model = _found(request, name, version)
    return json_response(
        {
            "name": model.name,
            "versions": [VERSION],
            "platform": "anycost",
            "inputs": [port.values() for port in model.inputs],
            "outputs": [port.values() for port in model.outputs],
        }
    )


@router.get("/models/{name}/ready", summary="200 while the model can be run")
@router.get("/models/{name}/versions/{version}/ready", include_in_schema=False)
async def model_ready(request: Request, name: ModelName, version: str = VERSION) -> Response:
    model = _found(request, name, version)
    found = is_ready(request)
    return json_response({"name": model.name, "ready": found}, 200 if found else 503)


_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string", "examples": ["FP32"]},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}
_CALL = {
    "requestBody": {
        "required": True,
        "description": f"JSON; with {LENGTH_HEADER}, the bytes of the tensors follow it",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {"type": "array", "items": _TENSOR},
                        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                    },
                },
                "example": {"inputs": [{"name": "seeds", "shape": [2], "datatype": "INT64", "data": [0, 1]}]},
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post("/models/{name}/infer", summary="Run a model", response_class=Response, openapi_extra=_CALL)
@router.post("/models/{name}/versions/{version}/infer", include_in_schema=False)
async def infer(request: Request, name: ModelName, version: str = VERSION) -> Response:
    service = service_of(request)
    model = _found(request, name, version)
    ports = {port.name: port for port in model.inputs}
    call = read_call(await request.body(), request.headers.get(LENGTH_HEADER), ports, {"seeds": _SEEDS})
    _check_inputs(model, call, service.settings.max_images)
    job = _generate(service, call) if name == GENERATOR else _raw(service, model, call)
    result = await service.submit(job, request, _timeout_ms(call.parameters))
    answer = Answer(
        model.name,
        VERSION,
        call.identity,
        {"engine": result.engine, "subnet": result.subnet, "elapsed_ms": round(result.elapsed_ms, 3)},
        result.arrays,
    )
    body, length = write_answer(answer, call, model.outputs)
    if length is None:
        return Response(body, media_type="application/json")
    return Response(body, headers={LENGTH_HEADER: str(length)}, media_type="application/octet-stream")


def _found(request: Request, name: str, version: str) -> Model:
    if version != VERSION:
        raise NotFoundError(f"there is no version {version[:20]!r} of {name[:80]!r}: the only one is {VERSION}")
    return find(service_of(request), name)


def _check_inputs(model: Model, call: Call, most: int) -> None:
    given, wanted = set(call.arrays), {port.name for port in model.inputs}
    if model.flexible and len(given) != 1:
        raise RequestError(f"give one of the inputs {' and '.join(sorted(wanted))}")
    if not model.flexible and given != wanted:
        raise RequestError(f"the inputs are {', '.join(sorted(wanted))}")
    rows = {len(array) for array in call.arrays.values()}
    if len(rows) != 1 or not 1 <= next(iter(rows)) <= most:
        raise RequestError(f"the inputs have {sorted(rows)} rows: give all of them the same number, 1 to {most}")
    for name, array in call.arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise RequestError(f"input {name} holds a NaN or an infinity")


def _raw(service: Service, model: Model, call: Call) -> Job:
    """A sub-network, the mapping or a part: tensors in, tensors out."""
    generator = service.generator
    subnet = model.name if generator and any(net.name == model.name for net in generator.subnets) else None
    backend = call.parameters.get("backend")
    if backend is not None and (not isinstance(backend, str) or len(backend) > 200):
        raise RequestError("parameter backend is not a name")
    rows = len(next(iter(call.arrays.values())))
    return Job("infer", {}, call.arrays, rows, subnet=subnet, backend=backend, model=model.name)


def _generate(service: Service, call: Call) -> Job:
    """Parameters: psi, noise, noise_seed, subnet, backend, and the limits of a budget by their names."""
    given = call.parameters
    arguments: dict[str, Any] = {"psi": check_psi(_number(given, "psi", 1.0)), "noise": "stored"}
    if "noise" in given:
        if given["noise"] not in ("stored", "random", "none"):
            raise RequestError("parameter noise is not stored, random or none")
        arguments |= {"noise": given["noise"], "noise_seed": int(_number(given, "noise_seed", 0)) % 2**32}
    arrays: dict[str, Array] = {}
    if "seeds" in call.arrays:
        seeds = [int(seed) for seed in call.arrays["seeds"].reshape(-1)]
        if not all(0 <= seed < 2**32 for seed in seeds):
            raise RequestError("seeds are whole numbers from 0 to 4294967295")
        arguments["seeds"], rows = seeds, len(seeds)
    else:
        arrays, rows = dict(call.arrays), len(call.arrays["w_plus"])
    try:
        limits = BudgetBody.model_validate({name: given[name] for name in BudgetBody.model_fields if name in given})
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(f"parameter {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    names = {}
    for name in ("subnet", "backend"):
        names[name] = given.get(name) or None
        if names[name] is not None and not isinstance(names[name], str):
            raise RequestError(f"parameter {name} is not a name")
    return Job("generate", arguments, arrays, rows, limits.budget(), names["subnet"], names["backend"])


def _number(parameters: Mapping[str, Any], name: str, default: float) -> float:
    value = parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:
        raise RequestError(f"parameter {name} {json.dumps(value, default=str)[:40]} is not a number")
    return float(value)


def _timeout_ms(parameters: Mapping[str, Any]) -> float | None:
    """Triton's parameter ``timeout``, in microseconds; 0 is none."""
    return _number(parameters, "timeout", 0) / 1e3 or None
