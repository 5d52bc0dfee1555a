"""One editor's WebSocket: messages in, pictures out. A preview that fits the budget first, then the full network's picture.

A newer message of the same view takes the place of an older one: what of that is not done is cancelled, and none of its frames
is sent any more. ``editor_messages`` has the form of both.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np

from anycost.errors import AnycostError
from anycost.runtime.budget import Budget
from anycost.runtime.manifest import GeneratorRecord
from anycost.runtime.server.editor_messages import Message, Plan, View, encoded, frame, parse, plan
from anycost.runtime.server.errors import NotFoundError, NothingFitsError, RequestError
from anycost.runtime.server.jobs import Array, Job, Result
from anycost.runtime.server.logs import log
from anycost.runtime.server.pictures import in_thread

MOST_CODES = 8  # that a socket keeps; the ones that were not used for longest go first


class Submit(Protocol):
    """``Dispatcher.submit``."""

    async def __call__(self, job: Job, *, deadline_ms: float | None = None, client: str = "") -> Result: ...


class EditorSession:
    """Between one socket and the dispatcher. send: one frame to the client. client: whom its jobs are counted for.
    public: takes out of an error's text what is not for clients. memory_mb: what no engine may exceed, the final one neither."""

    def __init__(
        self,
        generator: GeneratorRecord,
        submit: Submit,
        send: Callable[[bytes], Awaitable[None]],
        client: str = "",
        public: Callable[[str], str] = str,
        memory_mb: float | None = None,
    ):
        self._generator, self._submit, self._send = generator, submit, send
        self._client, self._public, self._memory_mb = client, public, memory_mb
        self._codes: OrderedDict[str, Array] = OrderedDict()
        self._work: dict[str, asyncio.Task[None]] = {}
        self._newest: dict[str, int] = {}
        self._turn = 0
        self._sending = asyncio.Lock()

    async def receive(self, text: str) -> None:
        """Start the work on a message, and end that on an older one of its view. Never raises for what a client sends."""
        try:
            message = parse(text)
        except RequestError as error:
            await self._tell(None, error)
            return
        self._turn += 1
        turn = self._newest[message.view] = self._turn
        older = self._work.get(message.view)
        if older is not None:
            older.cancel()
        self._work[message.view] = asyncio.create_task(self._answer(message, turn))

    async def wait(self) -> None:
        """Until nothing is being worked on."""
        await asyncio.gather(*self._work.values(), return_exceptions=True)

    async def close(self) -> None:
        for task in self._work.values():
            task.cancel()
        await self.wait()

    async def _answer(self, message: Message, turn: int) -> None:
        try:
            await self._draw(message, turn)
        except RequestError as error:
            await self._tell(message, error, turn)
        except AnycostError as error:
            await self._tell(message, RequestError(str(error)), turn)
        except Exception:
            log.exception("editor_failed")
            unforeseen = RequestError("this failed; the server's log says why", status=503, code="failed")
            await self._tell(message, unforeseen, turn)

    async def _draw(self, message: Message, turn: int) -> None:
        todo = plan(message, self._generator)
        job = self._job(message)
        toward = todo.final if message.finalize and todo.first != todo.final else None
        first = await self._run(job, todo.first, todo.budget, toward=toward)
        done = not message.finalize or first.subnet == todo.final
        await self._show(message, turn, first, "final" if message.finalize and done else "preview", done)
        if done:
            return
        # One job a segment, so that what is newer need not wait for more than one.
        variant = first.engine.rpartition("/")[2]
        for name in first.further:
            reached = await self._run(job, name, None, variant=variant)
            last = name == first.further[-1]
            await self._show(message, turn, reached, "final" if last else "step", last)
        if not first.further:
            await self._show(message, turn, await self._finish(job, todo), "final", True)

    async def _finish(self, job: tuple[dict[str, Any], dict[str, Array]], todo: Plan) -> Result:
        try:
            return await self._run(job, todo.final, None)
        except NothingFitsError:
            if todo.first is not None:
                raise
            # The full network takes more memory than it may: the best that does not is the final one then.
            return await self._run(job, None, Budget(memory_mb=self._memory_mb))

    def _job(self, message: Message) -> tuple[dict[str, Any], dict[str, Array]]:
        arguments: dict[str, Any] = {"psi": message.psi}
        values = {name: value for name, value in message.values.items() if value}
        if values:
            arguments["values"] = values
        if message.w_id is None:
            return {**arguments, "seeds": [message.seed]}, {}
        if message.w_plus is not None:
            self._keep(message.w_id, message.w_plus)
        codes = self._codes.get(message.w_id)
        if codes is None:
            raise NotFoundError("these codes are not kept here (any more): send them as w_plus", code="unknown_codes")
        self._codes.move_to_end(message.w_id)
        return arguments, {"w_plus": codes}

    def _keep(self, name: str, rows: list[list[float]]) -> None:
        shape = (self._generator.architecture.n_style, self._generator.architecture.style_dim)
        if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
            raise RequestError(f"w_plus is not [{shape[0]}, {shape[1]}]")
        # Beyond float32 is infinite, and what is drawn from it nothing.
        limit = float(np.finfo(np.float32).max)
        exact = np.asarray(rows, np.float64)
        if np.abs(exact).max() > limit:
            raise RequestError(f"w_plus holds a number beyond {limit:.3g}")
        self._codes[name] = exact.astype(np.float32)[None]
        while len(self._codes) > MOST_CODES:
            self._codes.popitem(last=False)

    async def _run(
        self,
        job: tuple[dict[str, Any], dict[str, Array]],
        subnet: str | None,
        budget: Budget | None,
        *,
        toward: str | None = None,
        variant: str | None = None,
    ) -> Result:
        """budget: where none is given, the server's, or without a limit on time for a sub-network that was asked for. toward: as
        of ``Job``. variant: whose segments are to go on."""
        arguments, arrays = job
        if subnet is not None:
            budget = Budget(memory_mb=self._memory_mb)
        operation: Literal["edit", "generate"] = "edit" if "values" in arguments else "generate"
        asked = Job(operation, arguments, arrays, budget=budget, subnet=subnet, toward=toward)
        if variant is not None:
            asked = replace(asked, backend=variant, segments=True)
        return await self._submit(asked, client=self._client)

    async def _show(self, message: Message, turn: int, result: Result, stage: str, last: bool) -> None:
        image = result.arrays["images"][0]
        kind, picture = await in_thread(lambda: encoded(image, stage == "final"))
        header = {
            "id": message.id,
            "view": message.view,
            "stage": stage,
            "subnet": result.subnet,
            "engine": result.engine,
            "elapsed_ms": round(result.elapsed_ms, 3),
            "format": kind,
            "width": image.shape[1],
            "height": image.shape[0],
            "last": last,
        }
        await self._deliver(frame(header, picture), message.view, turn)

    async def _tell(self, message: Message | None, error: RequestError, turn: int = 0) -> None:
        header: dict[str, Any] = (
            {"id": None, "view": None}
            if message is None
            else {
                "id": message.id,
                "view": message.view,
            }
        )
        header |= {"stage": "error", "code": error.code, "message": self._public(str(error)), "last": True}
        if error.retry_after is not None:
            header["retry_after"] = error.retry_after
        await self._deliver(frame(header), message.view if message else None, turn)

    async def _deliver(self, data: bytes, view: View | None, turn: int) -> None:
        """A frame that has begun is sent whole, whatever comes meanwhile; one that was replaced is not begun."""

        async def send() -> None:
            async with self._sending:
                if view is None or self._newest[view] == turn:
                    with contextlib.suppress(ConnectionError):  # the client is gone; its reader ends the session
                        await self._send(data)

        await asyncio.shield(send())
