"""The application: everything put together. ``create_app(settings)`` for any ASGI server; ``anycost serve`` runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from anycost._version import __version__
from anycost.errors import AnycostError
from anycost.runtime.bundle import Bundle, open_bundle
from anycost.runtime.profile import Profile
from anycost.runtime.server import errors
from anycost.runtime.server.answers import problem
from anycost.runtime.server.limits import Gate
from anycost.runtime.server.openapi import describe
from anycost.runtime.server.routes import about, editor, generate, health, open_inference, pictures
from anycost.runtime.server.service import Service
from anycost.runtime.server.settings import Settings

CODES = {404: "not_found", 405: "wrong_method"}
SHOWN_HEADERS = ("X-Anycost-Subnet", "X-Anycost-Engine", "X-Anycost-Elapsed-Ms", "X-Request-Id", "Retry-After")


def create_app(settings: Settings, *, bundle: Bundle | None = None, profile: Profile | None = None) -> FastAPI:
    """An application over one bundle; its workers are started with it and ended with it.

    bundle: open already; profile: measured already; otherwise the settings' folder, and what is stored of it. Raises
    AnycostError for a bundle that is missing, damaged or cannot run here, and for a budget that nothing fits.
    """
    service = Service(settings, bundle or open_bundle(settings.bundle), profile)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.dispatcher.start()
        try:
            yield
        finally:
            await service.dispatcher.drain(settings.drain_s)
            await service.dispatcher.close()

    app = FastAPI(
        title="anycost-runtime",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    for router in (generate.router, pictures.router, about.router, health.router, open_inference.router):
        app.include_router(router)
    app.include_router(editor.page_router(), include_in_schema=False)
    app.include_router(editor.socket_router(settings, service.generator, service.dispatcher.submit, service.public))
    _answer_errors(app)
    app.add_middleware(Gate, settings=settings, metrics=service.metrics, draining=lambda: service.dispatcher.draining)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Deadline-Ms", "X-Request-Id"],
            expose_headers=list(SHOWN_HEADERS),
        )
    describe(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Every refusal in the shape of ``answers.problem``."""

    async def refused(request: Request, error: Any) -> Response:
        return problem(request.scope, error)

    async def unknown(request: Request, error: Any) -> Response:
        status = error.status_code
        if status == 404:
            told: errors.RequestError = errors.NotFoundError("there is nothing at this address")
        else:
            # Starlette's own words: of methods and of bodies that it could not take apart.
            told = errors.RequestError(str(error.detail)[:200], status=status, code=CODES.get(status, "invalid"))
        response = problem(request.scope, told)
        response.headers.update(error.headers or {})
        return response

    async def invalid(request: Request, error: Any) -> Response:
        first = error.errors()[0]
        where = ".".join(str(piece) for piece in first["loc"] if piece != "body")
        return problem(request.scope, errors.RequestError(f"{where[:100]}: {first['msg'][:300]}".lstrip(": ")))

    async def of_a_user(request: Request, error: Any) -> Response:
        service: Service = request.app.state.service
        return problem(request.scope, errors.RequestError(service.public(str(error))))

    app.add_exception_handler(errors.RequestError, refused)
    app.add_exception_handler(AnycostError, of_a_user)
    app.add_exception_handler(HTTPException, unknown)
    app.add_exception_handler(RequestValidationError, invalid)
