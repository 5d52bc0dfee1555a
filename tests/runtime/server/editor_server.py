"""A server for the editor's tests: its real page and WebSocket, and everything else made up, so that no engine is needed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import threading
import time

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

from anycost.runtime.manifest import ArchitectureRecord, GeneratorRecord, SubnetRecord
from anycost.runtime.server.jobs import Job, Result
from anycost.runtime.server.routes.editor import page_router, socket_router
from anycost.runtime.server.settings import Settings

N_STYLE, DIM = 10, 16
DIRECTIONS = ["smiling", "young", "long hair"]


def generator() -> GeneratorRecord:
    """Of 64 px: three ratios at three resolutions, without 0.25@16, and a flexible sub-network."""
    nets = []
    for resolution in (16, 32, 64):
        for ratio in (0.25, 0.5, 1.0):
            if (resolution, ratio) != (16, 0.25):
                nets.append(_net(f"{ratio:g}@{resolution}", resolution, ratio))
    nets.append(_net("odd", 32, None))
    return GeneratorRecord(
        source="fake",
        source_sha256="0" * 64,
        architecture=ArchitectureRecord(resolution=64, channel_multiplier=2, channel_max=64, style_dim=DIM, n_mlp=2),
        noise="input",
        weights="weights.safetensors",
        latents="latents.safetensors",
        directions="directions.safetensors",
        subnets=tuple(nets),
    )


def _net(name: str, resolution: int, ratio: float | None) -> SubnetRecord:
    macs = int(resolution * 1000 * (ratio or 0.3))
    return SubnetRecord(
        name=name, resolution=resolution, channels=(8,), ratio=ratio, macs=macs, parameters=1000, distance=0.1
    )


class FakeDispatcher:
    """Draws a disc on a ground: the seed gives the colours, the sliders size and place, the sub-network the resolution.

    budget_choice: what is drawn where the budget chooses. delay_s: of every job. fail: raised instead. jobs: what was asked;
    done, cancelled: how many ended how. gate: set to let jobs end, when it is not None. further: what leads on by segments.
    """

    def __init__(self):
        self.generator = generator()
        self.budget_choice = "0.5@32"
        self.delay_s = 0.0
        self.fail: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.further: tuple[str, ...] = ()
        self.jobs: list[Job] = []
        self.done = self.cancelled = 0

    async def submit(self, job: Job, *, deadline_ms: float | None = None, client: str = "") -> Result:
        self.jobs.append(job)
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fail is not None:
            raise self.fail
        name = job.subnet or self.budget_choice
        net = next(net for net in self.generator.subnets if net.name == name)
        self.done += 1
        image = draw(net.resolution, job.arguments.get("seeds", [7])[0], job.arguments.get("values", {}))
        further = self.further if job.toward else ()
        return Result({"images": image[None]}, name, f"{name}/fake-fp16", 12.345, 0.5, 1, further=further)


def draw(side: int, seed: int, values: dict[str, float]) -> np.ndarray:
    state = np.random.RandomState(seed)
    ground, disc = state.randint(40, 220, 3), state.randint(40, 220, 3)
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    radius = 0.28 + values.get("smiling", 0) / 500
    middle = 0.5 + values.get("young", 0) / 400, 0.5 + values.get("long hair", 0) / 400
    inside = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 < radius**2
    return np.where(inside[..., None], disc, ground).astype(np.uint8)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def application(
    settings: Settings, dispatcher: FakeDispatcher, models: dict[str, object], seen: list[tuple[str, dict[str, str]]]
) -> FastAPI:
    """seen: the made-up routes that were asked, with their fields."""
    app = FastAPI()
    app.include_router(page_router())
    app.include_router(socket_router(settings, dispatcher.generator, dispatcher.submit))

    @app.middleware("http")
    async def check_token(request: Request, call):
        sent = request.headers.get("authorization")
        if settings.token and request.url.path.startswith("/v1/") and sent != f"Bearer {settings.token}":
            return problem(401, "unauthorized", "the token is missing or wrong")
        return await call(request)

    @app.get("/v1/models")
    async def listed():
        return models

    @app.get("/v1/directions")
    async def directions():
        return {"directions": [{"name": name} for name in DIRECTIONS]}

    @app.post("/v1/generate")
    async def generate(request: Request):
        wanted = await request.json()
        seen.append(("generate", wanted))
        return picture(draw(32, wanted["seeds"][0], {}), wanted.get("subnet") or "")

    @app.post("/v1/encode")
    async def encode(request: Request):
        image = Image.open(io.BytesIO(await request.body()))
        seen.append(("encode", {"size": image.size}))
        return {"w_plus": [[0.5] * DIM] * N_STYLE}

    @app.post("/v1/inpaint")
    async def inpaint(request: Request):
        form = await request.form()
        image = np.asarray(Image.open(form["image"].file).convert("RGB")).copy()
        mask = np.asarray(Image.open(form["mask"].file).convert("L")) > 127
        seen.append(("inpaint", {"mask": float(mask.mean()), "same": mask.shape == image.shape[:2]}))
        if dispatcher.fail is not None:
            return problem(503, "overloaded", str(dispatcher.fail), retry_after=3)
        image[mask] = (20, 160, 90)
        return picture(image, "", "inpainting/fake")

    @app.post("/v1/translate")
    async def translate(request: Request):
        form = await request.form()
        seen.append(("translate", {name: form[name] for name in form if name != "image"}))
        return picture(draw(32, int(form.get("seeds", 99)), {"smiling": 80}), "", "roses.decode/fake")

    return app


def picture(image: np.ndarray, subnet: str, engine: str = "fake") -> Response:
    headers = {"X-Anycost-Subnet": subnet, "X-Anycost-Engine": engine, "X-Anycost-Elapsed-Ms": "4.2"}
    return Response(png(image), media_type="image/png", headers=headers)


def problem(status: int, code: str, message: str, retry_after: int | None = None) -> JSONResponse:
    headers = {"Retry-After": str(retry_after)} if retry_after else {}
    return JSONResponse({"error": {"code": code, "message": message, "request_id": "1"}}, status, headers=headers)


def all_models(gen: GeneratorRecord) -> dict[str, object]:
    """What GET /v1/models tells of a bundle that holds everything."""
    return {
        "bundle": "made-up",
        "budget": "p95 <= 30 ms",
        "generator": {
            "directions": True,
            "subnets": [
                {"name": net.name, "resolution": net.resolution, "ratio": net.ratio, "macs": net.macs}
                for net in gen.subnets
            ],
        },
        "networks": [
            {"name": "encoder", "kind": "encoder"},
            {"name": "inpainting", "kind": "context-encoder"},
            {"name": "inpainting-2", "kind": "context-encoder-256"},
            {"name": "roses", "kind": "gans-n-roses"},
            {"name": "cycle", "kind": "cyclegan"},
        ],
    }


class EditorServer:
    """The application on a free port, in a thread. ``stop`` and ``start`` again as often as needed: the port stays."""

    def __init__(self, dispatcher: FakeDispatcher | None = None, token: str | None = None):
        self.dispatcher = dispatcher or FakeDispatcher()
        self.models = all_models(self.dispatcher.generator)
        self.seen: list[tuple[str, dict[str, str]]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.settings = Settings(bundle="nowhere", port=self.port, token=token)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def application(self) -> FastAPI:
        return application(self.settings, self.dispatcher, self.models, self.seen)

    def start(self) -> EditorServer:
        config = uvicorn.Config(
            self.application(),
            port=self.port,
            log_level="error",
            timeout_graceful_shutdown=1,
            ws_ping_interval=None,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        ends = time.monotonic() + 60
        while not self._server.started:
            assert self._thread.is_alive() and time.monotonic() < ends, "the server did not start"
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(20)
            self._server = None

    @contextlib.contextmanager
    def running(self):
        try:
            yield self.start()
        finally:
            self.stop()
