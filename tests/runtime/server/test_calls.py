"""Which budget an engine is picked by."""

import pytest

from anycost.runtime.budget import Budget
from anycost.runtime.server.calls import Calls, kin
from anycost.runtime.server.engines import Pick
from anycost.runtime.server.errors import NotFoundError
from anycost.runtime.server.jobs import Job

SERVERS = Budget(latency_ms=5, memory_mb=300)


class Engines:
    """Notes what it is asked for. variant: by sub-network, where it is another."""

    def __init__(self, **variant):
        self.variant = variant

    def pick(self, budget, subnet, backend, pressure=0.0):
        self.asked = budget, subnet, pressure
        name = subnet or "0.5@32"
        return Pick(name, self.variant.get(name, "onnxruntime"), 32, 7.0, None)


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


def test_what_leads_on_by_segments():
    asked = []
    calls = Calls(Engines(), SERVERS, 8, lambda *given: asked.append(given) or ("0.5@64", "0.5@128"))
    first = calls.of(job(toward="0.5@128"), 0.0)
    assert asked == [("onnxruntime", "0.5@32", "0.5@128", 7.0, 5)]
    assert first.further == ("0.5@64", "0.5@128") and first.how["segments"]
    further = calls.of(job(subnet="0.5@64", segments=True), 0.0)
    assert further.further == () and further.how["segments"] and len(asked) == 1
    plain = calls.of(job(), 0.0)
    assert plain.further == () and "segments" not in plain.how and len(asked) == 1


@pytest.mark.parametrize(
    "calls",
    [
        Calls(Engines(), SERVERS, 8),
        Calls(Engines(), SERVERS, 8, lambda *given: ()),
        # Segments of one variant do not go on from another's.
        Calls(Engines(**{"0.5@128": "openvino"}), SERVERS, 8, lambda *given: ("0.5@128",)),
    ],
    ids=["several workers", "not worth it", "another variant"],
)
def test_where_none_lead_on(calls):
    call = calls.of(job(toward="0.5@128"), 0.0)
    assert call.further == () and "segments" not in call.how


def test_jobs_of_segments_share_no_call():
    assert kin(job()) is not None and kin(job(toward="1@32")) is None and kin(job(segments=True)) is None


def test_a_bundle_without_a_generator_says_so():
    with pytest.raises(NotFoundError, match="no elastic generator"):
        Calls(None, SERVERS, 8).of(job(), 0.0)
