"""What the bundle holds, and which engine a budget chooses."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from anycost._version import __version__
from anycost.errors import BudgetError
from anycost.runtime.report import values
from anycost.runtime.server.answers import json_response
from anycost.runtime.server.bodies import BudgetBody
from anycost.runtime.server.service import Service, service_of

router = APIRouter(tags=["bundle"])


@router.get("/v1/models", summary="The networks of the bundle, their engines, and the server's limits")
async def models(request: Request) -> Response:
    service = service_of(request)
    manifest = service.bundle.manifest
    limits = ("max_images", "max_pixels", "max_body_mb", "deadline_ms", "per_client")
    body = {
        "bundle": manifest.name,
        "version": __version__,
        "generator": _generator(service),
        "networks": [
            {
                "name": network.name,
                "kind": network.kind,
                "labels": list(network.labels),
                "credit": network.credit,
                "parts": [
                    {
                        "name": part.name,
                        "inputs": [port.model_dump(mode="json") for port in part.inputs],
                        "outputs": [port.model_dump(mode="json") for port in part.outputs],
                    }
                    for part in network.parts
                ],
            }
            for network in manifest.networks
        ],
        "limits": {name: getattr(service.settings, name) for name in limits},
        "budget": str(service.settings.budget),
    }
    return json_response(body)


def _generator(service: Service) -> dict[str, Any] | None:
    generator = service.generator
    if generator is None:
        return None
    return {
        "resolution": generator.architecture.resolution,
        "style_dim": generator.architecture.style_dim,
        "n_style": generator.architecture.n_style,
        "noise": generator.noise,
        "directions": generator.directions is not None,
        "credit": generator.credit,
        "subnets": [
            {
                "name": net.name,
                "resolution": net.resolution,
                "ratio": net.ratio,
                "channels": list(net.channels),
                "macs": net.macs,
                "parameters": net.parameters,
                "distance": net.distance,
                "engines": [engine.variant for engine in service.bundle.engines(net.name)],
            }
            for net in generator.subnets
        ],
    }


@router.get("/v1/directions", summary="What /v1/edit can move, each from -100 to 100")
async def directions(request: Request) -> Response:
    service = service_of(request)
    generator = service.generator
    names = _names(service.bundle.path(generator.directions)) if generator and generator.directions else ()
    return json_response({"directions": [{"name": name, "least": -100, "most": 100} for name in names]})


@lru_cache(maxsize=4)
def _names(path: Path) -> tuple[str, ...]:
    from anycost.editing.directions import load

    return tuple(load(path).names)


@router.get("/v1/explain", summary="Which engine a budget chooses now, and why not the others")
async def explain(request: Request, budget: Annotated[BudgetBody, Query()]) -> Response:
    service = service_of(request)
    service.needs_generator()
    assert service.controllers is not None
    limit = budget.budget() or service.settings.budget
    # One of its own: asking must not start to follow a budget that nobody makes images for.
    controller = service.controllers.peek(limit)
    try:
        choice, reason = controller.choose(), ""
    except BudgetError as error:
        choice, reason = None, service.public(str(error))
    chosen = choice.engine.name if choice else None
    rows = [{**values(row), "chosen": row.engine.name == chosen} for row in controller.table()]
    estimates = service.controllers.estimates
    body = {
        "chosen": chosen,
        "reason": choice.reason if choice else reason,
        "budget": str(limit),
        "runs_seen": estimates.count(),
        "slowdown": estimates.slowdown(),
        "pressure": service.dispatcher.pressure(limit.latency_ms),
        "history": [
            {"ago_s": estimates.clock() - s.at, "from": s.source, "to": s.target, "reason": s.reason}
            for s in controller.history()
        ],
        "engines": rows,
    }
    return json_response(body)
