"""Editing while it is watched: a preview within a budget at once, then the best image in the background.

    with runtime.live(budget=Budget(latency_ms=60), on_image=show) as live:
        show(live.edit(w_plus, {"smiling": 60}))     # "preview"; "step" and "final" frames go to on_image
        best = live.final()

Engines are not thread-safe and share the processor's cores, so one thread runs everything: previews first, and between them the
newest edit's finalization, one engine call at a time. An edit thus waits for one segment at most (for the whole network where it
has no segments), and what an older edit still wanted is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from anycost.errors import InputError
from anycost.runtime import latents as latent
from anycost.runtime.budget import Budget
from anycost.runtime.manifest import SubnetRecord
from anycost.runtime.segments import Reached, goes_on

if TYPE_CHECKING:
    from anycost.editing.directions import Directions
    from anycost.runtime.choose import Choice
    from anycost.runtime.runtime import Runtime

Array = np.ndarray
Stage = Literal["preview", "step", "final"]
_log = logging.getLogger("anycost")


@dataclass(frozen=True)
class Frame:
    """One image of an edit. image: uint8 [H, W, 3]. stage: ``preview``, ``step`` (a further resolution on the way) or ``final``.
    elapsed_ms: since ``edit`` was called. id: of the edit, counted from 1."""

    image: Array
    subnet: str
    engine: str
    elapsed_ms: float
    stage: Stage
    id: int


@dataclass
class _Edit:
    """codes: w+ [1, n_style, style_dim]. began: when it was asked for, in the clock's seconds. shown: whether frames of it go to
    ``on_image``."""

    id: int
    codes: Array
    began: float
    finalize: bool
    shown: bool
    preview: Future[Frame] = field(default_factory=Future)
    final: Frame | None = None
    error: Exception | None = None


@dataclass
class _Finalization:
    """Each step of ``ways`` is one engine call. seen: the best sub-network shown of the edit."""

    edit: _Edit
    ways: Iterator[Reached]
    goal: SubnetRecord
    seen: SubnetRecord


class Live:
    """``Runtime.live`` makes one. Its methods may be called from any thread; while it is open, its runtime's engines are its own.

    budget: of previews. subnet: of final images, by default the best one without limits. backend: of both. on_image: called on
    the working thread with every ``step`` and ``final`` frame that no newer edit has overtaken; it must return soon and may
    not call ``edit`` or ``final``. clock: seconds, for ``elapsed_ms``.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        budget: Budget | None = None,
        subnet: str | None = None,
        backend: str | None = None,
        on_image: Callable[[Frame], object] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._runtime, self._budget = runtime, budget or Budget()
        self._subnet, self._backend = subnet, backend
        self._on_image, self._clock = on_image, clock
        # A budget that nothing fits, and names that are not there, are said here and not in a thread.
        self._choice()
        runtime.choose(subnet=subnet, backend=backend)
        self._directions: Directions | None = None
        self._opened: set[str] = set()
        self._changed = threading.Condition()
        self._previews: deque[_Edit] = deque()
        self._finalization: _Finalization | None = None
        self._newest: _Edit | None = None
        self._count = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="anycost-live", daemon=True)
        self._thread.start()

    def edit(self, w_plus: Array, values: Mapping[str, float] | str | None = None, *, finalize: bool = True) -> Frame:
        """The preview of codes [1, n_style, style_dim] or [n_style, style_dim] moved along directions, as by ``Runtime.edit``.

        finalize: whether to go on to the final image in the background. Whatever older edits still wanted is dropped. Raises
        InputError for what it is given and once it is closed, BudgetError when nothing fits any more.
        """
        codes = np.asarray(w_plus, dtype=np.float32)
        codes = codes[None] if codes.ndim == 2 else codes
        if len(codes) != 1:
            raise InputError(f"{len(codes)} faces were given, and one is edited at a time: give w_plus [1, rows, dim]")
        began = self._clock()
        if values:
            if self._directions is None:
                self._directions = self._runtime.directions()
            codes = self._runtime.edit(codes, values, directions=self._directions)
        return self._ask(codes, began, finalize, shown=True).preview.result()

    def final(self, timeout: float | None = None) -> Frame:
        """The newest edit's final image, when it is ready; an edit that comes meanwhile is the newest. timeout: in seconds.

        Raises TimeoutError when it takes longer, InputError when there is nothing to wait for, or what went wrong.
        """
        self._refuse_own_thread("final")
        with self._changed:
            if self._newest is None or not self._newest.finalize:
                raise InputError("there is no final image to wait for: call edit first, without finalize=False")
            if not self._changed.wait_for(self._settled, timeout):
                raise TimeoutError(f"the final image was not ready within {timeout:g} s")
            edit = self._newest
            if edit.error is not None:
                raise edit.error
            if edit.final is None:
                raise InputError(
                    "this live session was closed, or an edit without a final image came, before it was ready"
                )
            return edit.final

    def warm_up(self) -> None:
        """Open the engines of previews and final images, so that the first edit need not wait for that."""
        mean = self._runtime.mean_style()
        edit = self._ask(
            latent.mix(mean, self._runtime.bundle.generator.architecture.n_style), self._clock(), True, False
        )
        edit.preview.result()
        self.final()

    def close(self) -> None:
        """Stop after the engine call that is running, and wait for that."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Live:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, codes: Array, began: float, finalize: bool, shown: bool) -> _Edit:
        self._refuse_own_thread("edit")
        with self._changed:
            if self._closed:
                raise InputError("this live session is closed: open another with runtime.live()")
            self._count += 1
            edit = _Edit(self._count, codes, began, finalize, shown)
            self._newest, self._finalization = edit, None
            self._previews.append(edit)
            self._changed.notify_all()
        return edit

    def _refuse_own_thread(self, method: str) -> None:
        if threading.current_thread() is self._thread:
            raise InputError(
                f"{method} was called by on_image, whose thread would wait for itself: call it from another"
            )

    def _settled(self) -> bool:
        edit = self._newest
        return self._closed or edit is None or not edit.finalize or edit.final is not None or edit.error is not None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._previews or self._finalization)
                if self._closed:
                    break
                edit = self._previews.popleft() if self._previews else None
                finalization = self._finalization
            if edit is not None:
                self._preview(edit)
            elif finalization is not None:
                self._step(finalization)
        for left in self._previews:
            left.preview.set_exception(InputError("this live session was closed before the preview was made"))

    def _preview(self, edit: _Edit) -> None:
        try:
            runtime = self._runtime
            choice = self._choice()
            goal = runtime.choose(subnet=self._subnet, backend=self._backend)
            net, variant = choice.subnet, choice.engine.variant
            on = edit.finalize and goal.engine.variant == variant and self._goes_on(choice, goal)
            began = self._clock()
            *_, reached = runtime.steps(edit.codes, subnet=net.name, backend=variant, segments=on)
            self._observe(choice.engine.name, reached.engine, (self._clock() - began) * 1e3)
            ways = runtime.steps(edit.codes, subnet=goal.subnet.name, backend=goal.engine.variant, start=reached)
            frame = self._frame(edit, reached, "preview")
        except Exception as error:  # It is the caller's, who waits for it; this thread goes on.
            with self._changed:
                edit.error = error
                self._changed.notify_all()
            edit.preview.set_exception(error)
            return
        with self._changed:
            if edit is self._newest and edit.finalize:
                self._finalization = _Finalization(edit, ways, goal.subnet, net)
        edit.preview.set_result(frame)

    def _choice(self) -> Choice:
        """The engine of previews now: a budget of time is followed, as by ``Runtime.generate``."""
        if self._budget.latency_ms is None:
            return self._runtime.choose(self._budget, backend=self._backend)
        return self._runtime.controller(self._budget).choose(backend=self._backend)

    def _goes_on(self, preview: Choice, goal: Choice) -> bool:
        runtime, measured = self._runtime, preview.measured
        names = preview.engine.variant, preview.subnet.name, goal.subnet.name
        p95_ms = measured.p95_ms if measured else None
        return bool(goes_on(runtime.bundle, runtime.stored_profile, *names, p95_ms, self._budget.latency_ms))

    def _observe(self, whole: str, engine: str, took_ms: float) -> None:
        """Tell what a preview took, but for the first of each engine, which opens it. Where segments made it, it counts for the
        whole engine, which takes about as long."""
        if engine in self._opened and took_ms > 0:
            self._runtime.estimates.observe(whole, took_ms, 1)
        self._opened.add(engine)

    def _step(self, job: _Finalization) -> None:
        """One engine call of a finalization; what it gives is dropped when a newer edit has come meanwhile."""
        edit, stage = job.edit, "step"
        frame: Frame | None = None
        error: Exception | None = None
        try:
            reached = next(job.ways)
            net = self._runtime.bundle.subnet(reached.subnet)
            if net.name == job.goal.name:
                stage, frame = "final", self._frame(edit, reached, "final")
            elif (net.resolution, -net.distance) > (job.seen.resolution, -job.seen.distance):
                job.seen, frame = net, self._frame(edit, reached, "step")
        except Exception as caught:  # ``final`` raises it.
            _log.warning("the final image of edit %d failed: %s", edit.id, caught)
            error = caught
        with self._changed:
            if edit is not self._newest:
                return
            if stage == "final" or error is not None:
                edit.final, edit.error, self._finalization = frame, error, None
                self._changed.notify_all()
        if frame is not None and edit.shown and self._on_image is not None:
            try:
                self._on_image(frame)
            except Exception:
                _log.exception("on_image failed for the %s image of edit %d", stage, edit.id)

    def _frame(self, edit: _Edit, reached: Reached, stage: Stage) -> Frame:
        image = latent.as_images(reached.image)[0]
        elapsed = (self._clock() - edit.began) * 1e3
        return Frame(image, reached.subnet, reached.engine, elapsed, stage, edit.id)
