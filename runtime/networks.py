"""Running the networks of a bundle beside its generator: encoders, predictors, translators, ..."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from anycost.errors import BackendError, InputError
from anycost.runtime import backends
from anycost.runtime.bundle import Bundle
from anycost.runtime.manifest import EngineRecord, NetworkRecord
from anycost.runtime.profile import Profile, reasons
from anycost.runtime.usable import preference, unusable

Array = np.ndarray


class LoadedNetwork:
    """A network whose parts are loaded when they are first run, each on the backend that was measured fastest here, or the
    preferred one where nothing was measured. backend: use this one, or this variant of it. Not thread-safe."""

    def __init__(
        self, bundle: Bundle, record: NetworkRecord, profile: Profile | None, threads: int, backend: str | None = None
    ):
        self.bundle, self.record = bundle, record
        self._profile, self._threads, self._backend = profile, threads, backend
        self._engines: dict[str, backends.Engine] = {}

    def run(self, part: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """inputs: float [N, ...] by name, of the shapes that the part's record says -> its outputs, float32.

        part: empty for the only one. Raises InputError for a wrong name, shape or value, BackendError when no engine runs.
        """
        record = self.record.part(part)
        given = {}
        for port in record.inputs:
            if port.name not in inputs:
                raise InputError(f"{record.name} needs the input {port.name} [N, {_listed(port.shape)}]")
            array = np.ascontiguousarray(inputs[port.name], dtype=np.float32)
            if array.shape[1:] != port.shape or not len(array):
                raise InputError(
                    f"{port.name} of {record.name} has shape {list(array.shape)}: [N, {_listed(port.shape)}] was expected"
                )
            if not np.isfinite(array).all():
                raise InputError(f"{port.name} of {record.name} holds a NaN or an infinity")
            given[port.name] = array
        if record.name not in self._engines:
            engine = self.chosen(record.name)
            weights = self.bundle.weights(record.name)
            folder = self.bundle.path(engine.folder)
            self._engines[record.name] = backends.load(engine.backend, folder, weights.bind, self._threads)
        return self._engines[record.name].run(given)

    def chosen(self, part: str) -> EngineRecord:
        """The engine that runs a part, called as its engines are. Raises BackendError when none can run here."""
        engines = [
            engine
            for engine in self.bundle.engines(part)
            if self._backend in (None, engine.backend, engine.variant) and not unusable(engine)
        ]
        if not engines:
            raise BackendError(f"no engine of {part} can run here: {reasons(self.bundle.engines(part))}")
        return min(engines, key=self._speed)

    def _speed(self, engine: EngineRecord) -> tuple[float, ...]:
        measured = self._profile.engines.get(engine.name) if self._profile else None
        return measured.p50_ms if measured else float("inf"), *preference(engine)


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
