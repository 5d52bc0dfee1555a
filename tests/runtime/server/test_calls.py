"""Which budget an engine is picked by."""

import pytest

from anycost.runtime.budget import Budget
from anycost.runtime.server.calls import Calls
from anycost.runtime.server.engines import Pick
from anycost.runtime.server.errors import NotFoundError
from anycost.runtime.server.jobs import Job

SERVERS = Budget(latency_ms=5, memory_mb=300)


class Engines:
    """Notes what it is asked for."""

    def pick(self, budget, subnet, backend, pressure=0.0):
        self.asked = budget, subnet, pressure
        return Pick(subnet or "0.5@32", "onnxruntime", 32, 0.0, None)


def job(**fields):
    given = {"operation": "generate", "arguments": {}, "arrays": {}, "rows": 1}
    return Job(**(given | fields))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, SERVERS),
        ({"budget": Budget(latency_ms=9)}, Budget(latency_ms=9)),
        # Its time is its name's; the machine's memory is not the client's to give away.
        ({"subnet": "1@32"}, Budget(memory_mb=300)),
        ({"subnet": "1@32", "budget": Budget(latency_ms=9)}, Budget(latency_ms=9)),
    ],
)
def test_the_budget_of_a_job(fields, expected):
    engines = Engines()
    Calls(engines, SERVERS, 8).of(job(**fields), 0.5)
    assert engines.asked == (expected, fields.get("subnet"), 0.5)


def test_a_bundle_without_a_generator_says_so():
    with pytest.raises(NotFoundError, match="no elastic generator"):
        Calls(None, SERVERS, 8).of(job(), 0.0)
