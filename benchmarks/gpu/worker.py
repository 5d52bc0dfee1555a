"""``python -m anycost.benchmarks.gpu.worker JOB FINDINGS``: one job, told as a line of JSON for each finding."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

from anycost.benchmarks.gpu.job import Emit, Job
from anycost.errors import AnycostError
from anycost.networks.channels import SubnetError

_PARENT_CHECK_S = 2.0


def work(job: Job, emit: Emit) -> None:
    # Each kind imports what it needs: a missing package ends one job, not all.
    if job.kind == "device":
        from anycost.benchmarks.gpu.device import measure_device

        measure_device(job, emit)
    elif job.kind == "reference":
        from anycost.benchmarks.gpu.reference import write_reference

        write_reference(job, emit)
    elif job.kind == "probe":
        from anycost.benchmarks.gpu.probe import probe

        probe(job, emit)
    elif job.kind == "kernels":
        from anycost.benchmarks.gpu.kernels import measure_kernels

        measure_kernels(job, emit)
    else:
        from anycost.benchmarks.gpu.measure import measure

        measure(job, emit)


def main(arguments: list[str]) -> int:
    _end_with(os.getppid())
    job = Job.parse(Path(arguments[0]).read_text())
    with Path(arguments[1]).open("a") as file:

        def emit(kind: str, **values: object) -> None:
            file.write(json.dumps({"kind": kind, **values}) + "\n")
            file.flush()

        try:
            work(job, emit)
        except (AnycostError, SubnetError) as error:
            print(error, file=sys.stderr)
            return 2
        except Exception as error:
            traceback.print_exc()
            # The last line is what is reported.
            print(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
            return 1
    return 0


def _end_with(parent: int) -> None:
    """End when the process that started this one does: what goes on alone would disturb the next run's figures."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: the drivers' own clean-up has been seen to hang or crash after all is done and told.
    os._exit(code)
