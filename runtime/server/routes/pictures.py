"""Pictures in: encoding, inpainting, translating."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import Response

from anycost.runtime.server.answers import json_response
from anycost.runtime.server.errors import RequestError, WrongTypeError
from anycost.runtime.server.jobs import Array, Job
from anycost.runtime.server.pictures import MEDIA, decode, decode_mask, in_thread
from anycost.runtime.server.routes.generate import IMAGES, images_of
from anycost.runtime.server.service import Service, service_of

router = APIRouter(tags=["pictures"])

INPAINTERS = ("context-encoder", "context-encoder-256")
TRANSLATORS = ("gans-n-roses", "cyclegan", "discogan")
FITS = ("crop", "stretch", "pad")
MOST_FIELDS, MOST_FILES, MOST_FIELD = 16, 2, 64 << 10
_PICTURE = {"type": "string", "format": "binary", "description": "PNG, JPEG, WebP, or npy of uint8 [H, W, 3]"}
_TEXT = {"type": "string", "maxLength": 200}
_FORMAT = {"type": "string", "enum": [*MEDIA, "json"], "default": "png"}
_FIT = {"type": "string", "enum": list(FITS), "default": "crop"}


def _takes(fields: dict[str, Any], *, alone: bool = False) -> dict[str, Any]:
    """For /openapi.json: a form with a picture and these fields; alone: the picture may also be the whole body."""
    form = {"type": "object", "required": ["image"], "properties": {"image": _PICTURE, **fields}}
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if alone:
        for media in MEDIA.values():
            content[media] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


_CODES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The codes, [n_style, dim] in JSON or float32 [1, n_style, dim] as npy",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["w_plus"],
                    "properties": {
                        "w_plus": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                        "engine": {"type": "string"},
                        "elapsed_ms": {"type": "number"},
                    },
                }
            },
            MEDIA["npy"]: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_CODES_FORMAT = {"type": "string", "enum": ["json", "npy"], "default": "json"}


@router.post(
    "/v1/encode",
    summary="The generator's codes of a picture, for /v1/edit",
    responses=_CODES,
    response_class=Response,
    openapi_extra=_takes({"network": _TEXT, "fit": _FIT, "format": _CODES_FORMAT}, alone=True),
)
async def encode(request: Request) -> Response:
    service = service_of(request)
    fields = await _fields(request, service, alone=True)
    network = service.network(("encoder",), fields.text("network"))
    form = fields.choice("format", ("json", "npy"), "json")
    job = Job("encode", {"fit": fields.choice("fit", FITS, "crop")}, {"image": await fields.picture()}, model=network)
    result = await service.submit(job, request)
    codes = result.arrays["w_plus"]
    headers = {"X-Anycost-Engine": result.engine, "X-Anycost-Elapsed-Ms": f"{result.elapsed_ms:.2f}"}
    if form == "npy":
        file = io.BytesIO()
        np.save(file, codes, allow_pickle=False)
        return Response(file.getvalue(), headers=headers, media_type=MEDIA["npy"])
    if not np.isfinite(codes).all():
        raise RequestError("the network gave a NaN or an infinity for this picture")
    body = {"w_plus": codes[0].tolist(), "engine": result.engine, "elapsed_ms": result.elapsed_ms}
    return json_response(body, headers=headers)


@router.post(
    "/v1/inpaint",
    summary="A picture with its missing part filled; the rest stays exact",
    responses=IMAGES,
    response_class=Response,
    openapi_extra=_takes(
        {
            "mask": {
                "description": "A picture with white where it is missing, or center, box:X,Y,WIDTH,HEIGHT, boxes:COUNT, strokes",
                "anyOf": [_PICTURE, _TEXT],
            },
            "network": _TEXT,
            "seed": {"type": "integer", "minimum": 0, "maximum": 4294967295, "default": 0},
            "format": _FORMAT,
        }
    ),
)
async def inpaint(request: Request) -> Response:
    service = service_of(request)
    fields = await _fields(request, service)
    network = service.network(INPAINTERS, fields.text("network"))
    form = fields.choice("format", (*MEDIA, "json"), "png")
    arguments: dict[str, Any] = {"seed": (fields.seeds("seed", 1) or [0])[0]}
    arrays = {"image": await fields.picture()}
    mask = await fields.mask()
    if isinstance(mask, str):
        arguments["mask"] = mask
    else:
        arrays["mask"] = mask
    result = await service.submit(Job("inpaint", arguments, arrays, model=network), request)
    return await images_of(_one_image(result), "images", form)


@router.post(
    "/v1/translate",
    summary="A picture in another style, one image a seed",
    responses=IMAGES,
    response_class=Response,
    openapi_extra=_takes(
        {
            "seeds": {
                **_TEXT,
                "description": "Such as 3 or 0,1,2; left out, the picture's own style",
                "examples": ["0,1"],
            },
            "network": _TEXT,
            "fit": _FIT,
            "format": _FORMAT,
        }
    ),
)
async def translate(request: Request) -> Response:
    service = service_of(request)
    fields = await _fields(request, service)
    network = service.network(TRANSLATORS, fields.text("network"))
    form = fields.choice("format", (*MEDIA, "json"), "png")
    seeds = fields.seeds("seeds", service.settings.max_images)
    arguments = {"fit": fields.choice("fit", FITS, "crop")} | ({"seeds": seeds} if seeds else {})
    job = Job("translate", arguments, {"image": await fields.picture()}, rows=len(seeds or [0]), model=network)
    return await images_of(await service.submit(job, request), "images", form)


def _one_image(result: Any) -> Any:
    from dataclasses import replace

    return replace(result, arrays={"images": result.arrays["image"][None]})


class _Fields:
    """A form, or a body that is a picture with its fields in the query."""

    def __init__(self, service: Service, values: dict[str, str], files: dict[str, bytes]):
        self._service, self._values, self._files = service, values, files

    def text(self, name: str) -> str | None:
        value = self._values.get(name) or None
        if value is not None and len(value) > 200:
            raise RequestError(f"{name} of {len(value)} characters is too long")
        return value

    def choice(self, name: str, known: tuple[str, ...], default: str) -> str:
        value = self.text(name) or default
        if value not in known:
            raise RequestError(f"{name} {value[:40]!r} is not {', '.join(known)}")
        return value

    def seeds(self, name: str, most: int) -> list[int] | None:
        """Whole numbers with commas between; None where there are none."""
        text = self.text(name)
        if text is None:
            return None
        pieces = [piece.strip() for piece in text.split(",")]
        if not all(piece.isascii() and piece.isdigit() and len(piece) <= 10 for piece in pieces):
            raise RequestError(f"{name} {text[:40]!r} are not whole numbers such as 3 or 0,1,2")
        found = [int(piece) for piece in pieces]
        if len(found) > most or max(found) >= 2**32:
            raise RequestError(f"{name}: give 1 to {most} of 0 to 4294967295")
        return found

    async def picture(self) -> Array:
        if "image" not in self._files:
            raise RequestError("the picture is missing: send it as 'image', a file of the form")
        data, most = self._files["image"], self._service.settings.max_pixels
        return await in_thread(lambda: decode(data, most))

    async def mask(self) -> Array | str:
        if "mask" in self._files:
            data, most = self._files["mask"], self._service.settings.max_pixels
            return await in_thread(lambda: decode_mask(data, most))
        text = self.text("mask")
        if text is None or text.partition(":")[0] not in ("center", "box", "boxes", "strokes"):
            raise RequestError(
                "the mask is missing: send a picture, or center, box:X,Y,WIDTH,HEIGHT, boxes:COUNT, strokes"
            )
        return text


async def _fields(request: Request, service: Service, *, alone: bool = False) -> _Fields:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        try:
            form: FormData = await request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS, max_part_size=MOST_FIELD)
        except HTTPException:
            raise
        except Exception as error:  # the parser raises anything for what is no form
            raise RequestError(f"the form cannot be read: {type(error).__name__}") from None
        values = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        files = {name: await value.read() for name, value in form.multi_items() if isinstance(value, UploadFile)}
        await form.close()
        return _Fields(service, values, files)
    if alone:
        return _Fields(service, dict(request.query_params), {"image": await request.body()})
    raise WrongTypeError("send a form, multipart/form-data, with the picture as 'image'")
