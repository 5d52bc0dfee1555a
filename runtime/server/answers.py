"""Errors as JSON: what clients read, without a path or a stack trace."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from anycost.runtime.server.errors import RequestError

OPEN_INFERENCE = "/v2"


def problem(scope: Scope, error: RequestError) -> Response:
    """{"error": {"code", "message", "request_id"}}; below /v2, where the protocol wants a text, {"error": message, ...}."""
    request_id = scope.get("state", {}).get("request_id", "")
    message = " ".join(str(error).split())
    if str(scope.get("path", "")).startswith(OPEN_INFERENCE):
        body: dict[str, Any] = {"error": message, "code": error.code, "request_id": request_id}
    else:
        body = {"error": {"code": error.code, "message": message, "request_id": request_id}}
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(body, error.status, headers)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(body, allow_nan=False, separators=(",", ":"))
    return Response(text, status, headers=dict(headers or {}), media_type="application/json")
