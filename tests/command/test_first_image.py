"""Opening a bundle and making the first image at the smallest sub-network: under 1 s after Python has started, and under
300 MB resident, on either backend. The bounds are the product's promise; the figure on an idle machine is a third of them.

What is bounded here is the processor's time, which other tests on the machine do not add to as they do to the clock's."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import time
started = time.process_time()
import json, sys
import anycost
image = anycost.open(sys.argv[1]).generate(0, subnet="0.25@16", backend=sys.argv[2])
seconds = time.process_time() - started
from anycost.runtime.measure import peak_memory_mb
print(json.dumps({"s": seconds, "mb": peak_memory_mb()}))
"""


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_first_image(tiny_bundle, backend):
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tiny_bundle), backend], capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout))
    # The best of three: other processes on the machine only ever add time.
    assert min(run["s"] for run in runs) < 1.0
    assert max(run["mb"] for run in runs) < 300
