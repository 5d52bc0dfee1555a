"""The description at /openapi.json: what FastAPI finds, with this server's errors in place of FastAPI's."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

ABOUT = """Images from an elastic GAN within a budget of time and memory.

Every request may carry `X-Request-Id` (returned, and written to the log) and `X-Deadline-Ms`. With a token set, send
`Authorization: Bearer TOKEN`. Errors are `{"error": {"code", "message", "request_id"}}`; a 503 has `Retry-After`.
Below `/v2` is the Open Inference Protocol, whose errors are `{"error": "message"}`."""

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "request_id"],
            "properties": {
                "code": {"type": "string", "examples": ["overloaded"]},
                "message": {"type": "string", "examples": ["64 requests are waiting: try again later"]},
                "request_id": {"type": "string", "examples": ["6fa1f7bd0a1c4f6e"]},
            },
        }
    },
}
PROTOCOL_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}, "request_id": {"type": "string"}},
}
STATUSES = {
    "400": "An argument that is not accepted",
    "401": "The token is missing or wrong",
    "404": "No such network, model or address",
    "405": "The address takes another method",
    "408": "The body came too slowly",
    "413": "The body or the picture is too large",
    "415": "The body is of a type that is not read",
    "422": "No engine fits the budget",
    "429": "Too many requests of this client at a time",
    "503": "Overloaded, not ready, stopping, or not done before the deadline",
}


def describe(app: FastAPI) -> None:
    """Replace ``app.openapi``; the description is made when it is first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _described(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas |= {"Error": ERROR, "ProtocolError": PROTOCOL_ERROR}
    for path, methods in found["paths"].items():
        name = "ProtocolError" if path.startswith("/v2") else "Error"
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
        for operation in methods.values():
            answers = operation.setdefault("responses", {})
            if "HTTPValidationError" in str(answers.get("422")):
                del answers["422"]
            for status, text in STATUSES.items():
                answers.setdefault(status, {"description": text, "content": content})
    return found
