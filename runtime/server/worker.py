"""A worker: opens the bundle once and answers messages on its standard input until that ends.

``python -m anycost.runtime.server.worker``; the first message says which bundle and how many threads.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from anycost.errors import AnycostError
from anycost.runtime.server import wire

SESSIONS = 16  # engines that stay loaded: overload moves between sub-networks, and loading takes longer than running


def main() -> int:
    # The server tells the end by closing the pipe. A Ctrl-C, or a signal to all processes of a service, must not end a
    # worker whose results are still awaited.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    source, target = sys.stdin.buffer, _own_stdout()
    try:
        first = wire.read(source)
        if first is None:
            return 0
        operations = _open(first[0])
    except AnycostError as error:
        wire.write(target, {"error": str(error)})
        return 2
    wire.write(target, {"ready": os.getpid()})
    while (message := wire.read(source)) is not None:
        header, arrays = message
        answer, made = _answer(operations, header, arrays)
        wire.write(target, answer, made)
    return 0


def _own_stdout() -> BinaryIO:
    """The pipe to the server. What libraries print goes to standard error instead, where it cannot break a message."""
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return target


def _open(settings: Mapping[str, Any]) -> Any:
    from anycost.runtime.bundle import Bundle, read_manifest
    from anycost.runtime.runtime import Runtime
    from anycost.runtime.server.operations import Operations

    # The server has checked the files.
    folder = Path(settings["bundle"])
    manifest, sha256 = read_manifest(folder)
    runtime = Runtime(Bundle(folder, manifest, sha256), threads=settings["threads"], sessions=SESSIONS)
    operations = Operations(runtime)
    for subnet, variant in settings.get("warm", ()):
        operations.load(subnet, variant)
    for subnet, variant in settings.get("chains", ()):
        operations.load_segments(subnet, variant)
    return operations


def _answer(
    operations: Any, header: Mapping[str, Any], arrays: Mapping[str, wire.Array]
) -> tuple[dict[str, Any], dict[str, wire.Array]]:
    """Outcomes in the order of the tasks; the arrays of task i are called ``i.name`` both ways."""
    from anycost.runtime.server.operations import Task

    tasks = [Task(arguments, _of(arrays, i)) for i, arguments in enumerate(header["tasks"])]
    try:
        outcomes = operations.run(header["operation"], header["how"], tasks)
    except Exception as error:  # a library's failure: told to the client in general, to the log in full
        last = traceback.format_exc()
        print(
            json.dumps({"level": "error", "event": "engine_failed", "error": repr(error), "trace": last}),
            file=sys.stderr,
            flush=True,
        )
        return {"outcomes": [{"failed": True} for _ in tasks]}, {}
    answer: dict[str, Any] = {
        "outcomes": [
            {"engine": x.engine, "elapsed_ms": x.elapsed_ms, "loaded": x.loaded, "error": x.error} for x in outcomes
        ]
    }
    made = {f"{i}.{name}": array for i, x in enumerate(outcomes) for name, array in x.arrays.items()}
    return answer, made


def _of(arrays: Mapping[str, wire.Array], index: int) -> dict[str, wire.Array]:
    prefix = f"{index}."
    return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}


if __name__ == "__main__":
    sys.exit(main())
