"""Images from seeds and codes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from anycost.runtime.server.answers import json_response
from anycost.runtime.server.bodies import EditBody, GenerateBody, ImageBody
from anycost.runtime.server.errors import RequestError
from anycost.runtime.server.jobs import Array, Job, Result
from anycost.runtime.server.pictures import MEDIA, encode, encode_text, in_thread
from anycost.runtime.server.service import service_of

router = APIRouter(tags=["images"])

_HEADERS = {
    "X-Anycost-Subnet": "The sub-network that was chosen",
    "X-Anycost-Engine": "SUBNET/VARIANT",
    "X-Anycost-Elapsed-Ms": "What the engine took",
}
IMAGES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One image as a file; several as npy [N, H, W, 3], or as base64 in JSON",
        "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()},
        "content": {
            **{media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA.values()},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images", "format", "engine"],
                    "properties": {
                        "images": {"type": "array", "items": {"type": "string", "format": "byte"}},
                        "format": {"type": "string"},
                        "subnet": {"type": "string"},
                        "engine": {"type": "string"},
                        "elapsed_ms": {"type": "number"},
                    },
                }
            },
        },
    }
}


@router.post("/v1/generate", summary="Images of seeds", responses=IMAGES, response_class=Response)
async def generate(request: Request, body: GenerateBody) -> Response:
    service = service_of(request)
    service.needs_generator()
    if len(body.seeds) > service.settings.max_images:
        raise RequestError(f"{len(body.seeds)} seeds are above the {service.settings.max_images} of one request")
    job = _job("generate", body, {"seeds": body.seeds}, {}, len(body.seeds))
    return await images_of(await service.submit(job, request, body.deadline_ms), "images", body.format)


@router.post("/v1/edit", summary="Images moved along directions", responses=IMAGES, response_class=Response)
async def edit(request: Request, body: EditBody) -> Response:
    service = service_of(request)
    generator = service.needs_generator()
    if body.values and generator.directions is None:
        raise RequestError("this bundle has no directions: leave values out")
    try:
        codes = body.codes()
    except ValueError:
        raise RequestError("w_plus has rows of different lengths") from None
    shape = (generator.architecture.n_style, generator.architecture.style_dim)
    if codes is not None and (codes.shape[1:] != shape or not 1 <= len(codes) <= service.settings.max_images):
        raise RequestError(
            f"w_plus has shape {list(codes.shape)}: [{shape[0]}, {shape[1]}] is expected, "
            f"or 1 to {service.settings.max_images} of them"
        )
    if codes is not None and not np.isfinite(codes).all():
        raise RequestError("w_plus holds numbers beyond float32")
    arguments: dict[str, Any] = {"values": body.values}
    if codes is None:
        arguments["seeds"] = [body.seed]
    arrays = {} if codes is None else {"w_plus": codes}
    job = _job("edit", body, arguments, arrays, 1 if codes is None else len(codes))
    return await images_of(await service.submit(job, request, body.deadline_ms), "images", body.format)


def _job(operation: Any, body: ImageBody, arguments: dict[str, Any], arrays: dict[str, Array], rows: int) -> Job:
    arguments |= {"psi": body.psi, "noise": body.noise, "noise_seed": body.noise_seed}
    return Job(operation, arguments, arrays, rows, body.limit(), body.subnet, body.backend)


async def images_of(result: Result, name: str, form: str) -> Response:
    """The images of a result in the form that was asked for."""
    images = result.arrays[name]
    headers = {"X-Anycost-Engine": result.engine, "X-Anycost-Elapsed-Ms": f"{result.elapsed_ms:.2f}"}
    if result.subnet:
        headers["X-Anycost-Subnet"] = result.subnet
    if form == "npy":
        return Response(_npy(images), headers=headers, media_type=MEDIA["npy"])
    if len(images) == 1 and form != "json":
        data = await in_thread(lambda: encode(images[0], form))
        return Response(data, headers=headers, media_type=MEDIA[form])
    kind = "png" if form == "json" else form
    texts = await in_thread(lambda: [encode_text(image, kind) for image in images])
    body = {"images": texts, "format": kind, "subnet": result.subnet, "engine": result.engine}
    return json_response({**body, "elapsed_ms": result.elapsed_ms}, headers=headers)


def _npy(images: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, images, allow_pickle=False)
    return file.getvalue()
