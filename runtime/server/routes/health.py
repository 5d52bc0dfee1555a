"""Whether the server lives, whether it can take requests, and figures of both."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from anycost.runtime.server.answers import json_response
from anycost.runtime.server.service import service_of

router = APIRouter(tags=["health"])


def is_ready(request: Request) -> bool:
    service = service_of(request)
    return service.pool.ready > 0 and not service.dispatcher.draining


@router.get("/health", summary="All of it")
async def health(request: Request) -> Response:
    service = service_of(request)
    draining = service.dispatcher.draining
    status = "draining" if draining else "ready" if is_ready(request) else "not ready"
    body = {
        "status": status,
        "workers": service.settings.workers,
        "workers_ready": service.pool.ready,
        "queue": service.dispatcher.waiting,
        "running": service.dispatcher.running,
    }
    return json_response(body, 200 if is_ready(request) else 503)


@router.get("/health/live", summary="200 while the process runs")
async def live() -> Response:
    return json_response({"live": True})


@router.get("/health/ready", summary="200 while requests are taken and a worker can run them")
async def ready(request: Request) -> Response:
    found = is_ready(request)
    return json_response({"ready": found}, 200 if found else 503)


@router.get("/metrics", summary="For Prometheus")
async def metrics(request: Request) -> Response:
    found = service_of(request).metrics
    return Response(found.page(), media_type=found.content_type)
