"""The load generator against stand-ins that misbehave in known ways, and against a real server for a few seconds."""

import asyncio
import contextlib
import json
import math
import time

import numpy as np
import pytest

from anycost.benchmarks import serve, serve_report
from anycost.benchmarks.serve_cases import MAKERS, case
from anycost.benchmarks.serve_client import Client, Reply, flaw
from anycost.benchmarks.serve_faults import KINDS, deaf, endless_body, silent, slow_body
from anycost.benchmarks.serve_load import closed, images, opened, percentile
from anycost.benchmarks.serve_malformed import Findings, crafted
from anycost.benchmarks.serve_process import Sample, growth, slope

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(2000)
REFUSAL = {"error": {"code": "overloaded", "message": "full", "request_id": "1"}}


def answer(status, body=b"", **headers):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Any", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


GOOD = answer(200, IMAGE, X_Anycost_Subnet="1@16")


@contextlib.asynccontextmanager
async def stand_in(answered):
    """A client of a server which answers each request with what ``await answered(number)`` gives; None closes the connection."""
    count = 0

    async def serve(reader, writer):
        nonlocal count
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
                count += 1
                data = await answered(count - 1)
                if data is None:
                    break
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Client(*server.sockets[0].getsockname()[:2])
    try:
        yield client
    finally:
        await client.close()
        server.close()


def run(answered, use):
    async def both():
        async with stand_in(answered) as client:
            return await use(client)

    return asyncio.run(both())


def test_latencies_count_from_when_requests_were_due():
    """A server that stands still for half a second is seen to by all that came meanwhile, not by one request."""
    still_until = 0.0
    lock = asyncio.Lock()

    async def answered(number):
        nonlocal still_until
        if number == 20:
            still_until = time.monotonic() + 0.5
        async with lock:
            await asyncio.sleep(max(0.0, still_until - time.monotonic()))
        return GOOD

    tally, seconds = run(answered, lambda client: opened(images(client), 100, 1.5, 0))
    assert len(tally.latencies_ms) == tally.sent
    assert 100 < tally.sent < 200
    assert not tally.lost
    assert sum(latency > 100 for latency in tally.latencies_ms) > 20
    assert tally.values(seconds)["p99_ms"] > 400
    # The same requests at every run.
    assert run(answered, lambda client: opened(images(client), 100, 1.5, 0))[0].sent == tally.sent


def test_what_becomes_of_requests_is_told_apart():
    kinds = [
        GOOD,
        answer(503, REFUSAL, Retry_After=1),
        answer(429, REFUSAL),
        answer(503, REFUSAL),  # without Retry-After
        answer(500, REFUSAL),
        answer(200, b"GIF", X_Anycost_Subnet="1@16"),
        answer(400, b"<html>"),
        None,
        b"nonsense\r\n\r\n",
        GOOD[:-5],
    ]

    async def answered(number):
        return kinds[number % len(kinds)]

    tally = run(answered, lambda client: closed(lambda number: client.ask("GET", "/", limit_s=0.2), 1, 0.8))
    assert len(tally.latencies_ms) == tally.subnets["1@16"] >= 1
    assert set(tally.refused) == {"503 overloaded", "429 overloaded"}
    told = " ".join(tally.lost)
    for piece in (
        "without Retry-After",
        "status 500",
        "without a PNG",
        "not in the form",
        "IncompleteRead",
        "nonsense",
        "no answer",
    ):
        assert piece in told
    everything = len(tally.latencies_ms) + sum(tally.refused.values()) + sum(tally.lost.values())
    assert everything == tally.sent


@pytest.mark.parametrize(
    ("status", "headers", "body", "wrong"),
    [
        (200, {}, b"anything", ""),
        (404, {}, json.dumps(REFUSAL).encode(), ""),
        (404, {}, b'{"error": "no model", "code": "not_found", "request_id": "1"}', ""),
        (400, {"content-type": "text/plain; charset=utf-8"}, b"Invalid HTTP request received.", ""),
        (503, {"retry-after": "2"}, json.dumps(REFUSAL).encode(), ""),
        (503, {"retry-after": "2"}, json.dumps(REFUSAL).replace("overloaded", "failed").encode(), "not foreseen"),
        (500, {}, b"Internal Server Error", "status 500"),
        (404, {}, b'{"detail": "Not Found"}', "form of an error"),
        (404, {}, json.dumps(REFUSAL).replace("full", "no /home/me/model").encode(), "shows"),
        (400, {}, json.dumps(REFUSAL).replace("full", "in app.py").encode(), "shows"),
    ],
)
def test_what_a_refusal_must_be(status, headers, body, wrong):
    found = flaw(Reply(status, headers, body))
    assert wrong in found
    assert bool(found) == bool(wrong)


def test_percentiles_are_values_that_occurred():
    values = [float(i) for i in range(1, 101)]
    assert [percentile(values, q) for q in (50, 95, 99)] == [50, 95, 99]
    assert percentile([3.0], 99) == 3
    assert percentile([], 50) is None


def test_slope_and_its_error():
    seconds = np.arange(0, 300, 1.0)
    draw = np.random.default_rng(0)
    noise = draw.normal(0, 2, len(seconds))
    found = slope(seconds, 100 + seconds / 60 * 3 + noise)
    assert abs(found["mb_a_minute"] - 3) < 3 * found["standard_error"]
    assert serve_report.verdict(found) == "grows"
    assert serve_report.verdict(slope(seconds, 100 + noise)) == "flat"
    # A random walk goes somewhere by chance: its neighbours are alike, so its error has to be wide.
    walk = slope(seconds, 100 + np.cumsum(draw.normal(0, 0.3, len(seconds))))
    assert walk["standard_error"] > 5 * slope(seconds, 100 + draw.normal(0, 0.3, len(seconds)))["standard_error"]
    assert slope(seconds[:10], seconds[:10]) is None
    assert slope([], []) is None
    assert serve_report.verdict(None) == "open"


def test_growth_leaves_out_the_start_and_restarting_workers():
    samples = [Sample(float(i), 50.0 if i > 10 else 20.0 + i, None if i == 30 else 200.0 + i, 9) for i in range(61)]
    found = growth(samples, 12)
    assert found["front"]["mb_a_minute"] == 0
    assert found["workers"]["mb_a_minute"] == pytest.approx(60)
    assert found["workers"]["samples"] == 48
    assert found["files"] == [9, 9]


def test_cases_are_the_same_for_a_seed_and_small():
    for number in range(3 * len(MAKERS)):
        one, again = case(number, 5), case(number, 5)
        assert one == again
        assert len(one.raw if one.raw is not None else one.body) < 4 << 20
    assert case(0, 5) != case(0, 6)
    assert len({case(number).kind for number in range(1000)}) > 25


def test_malformed_requests_find_what_a_server_does_wrong():
    async def all_good(number):
        return answer(200, IMAGE)

    async def fails(number):
        return answer(500, b"Traceback (most recent call last)", Connection="close")

    async def correct(number):
        return answer(400, REFUSAL)

    found = {}
    for answered in (all_good, fails, correct):
        found[answered] = Findings()
        run(answered, lambda client, of=found[answered]: crafted(client, range(40), 0, of, math.inf))
        assert sum(found[answered].kinds.values()) == 40
    assert any("it was accepted" in problem for problem in found[all_good].problems)
    assert any("status 500" in problem for problem in found[fails].problems)
    assert found[fails].examples
    # What is no HTTP, or waits for a longer body, this stand-in may drop or leave unanswered.
    assert not [problem for problem in found[correct].problems if not problem.startswith("no HTTP")]


def test_a_client_that_reads_nothing_asks_what_the_server_holds():
    asked = []

    async def answered(number):
        return answer(200, bytes(1 << 16))

    async def use(client):
        client.holds = lambda port: bool(asked.append(port))
        return await deaf(client, 0.2)

    assert run(answered, use) == "ended by the server"
    assert asked[0] > 0


def test_slow_clients_see_what_becomes_of_them():
    async def answered(number):
        return answer(200, bytes(8 << 20))

    async def use(client):
        return await asyncio.gather(*(behave(client, 1.0) for behave in (slow_body, endless_body, silent, deaf)))

    body, endless, said_nothing, unread = run(answered, use)
    assert (body, endless, said_nothing, unread) == ("answered 200", "open", "open", "open")

    async def closing(number):
        return None

    assert run(closing, lambda client: slow_body(client, 1.0)) == "ended by the server"


def good_result():
    """What a run without a flaw has."""
    load = {
        "lost": {},
        "sent": 9,
        "accepted": 9,
        "refused": {},
        "p95_ms": 9.0,
        "p50_ms": 5.0,
        "p99_ms": 9.0,
        "rate": 3.0,
    }
    load |= {"subnets": {"1@16": 9}, "sent_late_p99_ms": 1.0, "downgrades": 0, "images_a_second": 3.0}
    flat = {"mb_a_minute": 0.1, "standard_error": 0.1, "samples": 50}
    sample = {"second": 0, "front_mb": 90.0, "workers_mb": 300.0, "files": 9}
    found = {
        "problems": {},
        "restarts": 0,
        "requests": 9,
        "asked": 9,
        "statuses": {"400 invalid": 9},
        "memory": [sample] * 3,
    }
    ends = {kind: {"answered 408": 10} for kind in KINDS} | {"body byte by byte": {"answered 200": 10}}
    return {
        "device": "any",
        "bundle": "tiny",
        "settings": {"minutes": 1, "workers": 1, "seed": 0, "more": []},
        "capacity": load,
        "levels": [{**load, "share": share, "memory": {"front": flat, "workers": flat}} for share in (0.5, 1, 2)],
        "kill": {**load, "kills": 2, "restarts": 2, "back_s": [1.0, 2.0]},
        "slow": {**load, "held_s": 75, "files": [9, 49, 9], "ends": ends},
        "half_open": {
            **load,
            "held_s": 40,
            "files": [9, 309, 9],
            "connections": 300,
            "ends": {"silent": {"ended by the server": 300}},
        },
        "malformed": {**found, "slowest_s": 0.1, "slowest": "a, b"},
        "server": {"alive_at_the_end": True, "exit_code": 0, "logged": {"errors": {}}},
    }


def test_every_failure_is_found():
    assert serve_report.failures(good_result()) == []

    grown = {"mb_a_minute": 3.0, "standard_error": 0.5, "samples": 50}
    leaked = {"second": 0, "front_mb": 190.0, "workers_mb": 300.0, "files": 99}
    wrong = [
        (("levels", 1, "lost"), {"status 500": 1}, "1 requests lost"),
        (("levels", 2, "memory", "front"), grown, "memory of the front grows"),
        (("kill", "back_s"), [1.0], "killed workers"),
        (("kill", "kills"), 0, "none to kill"),
        (("slow", "ends", "body without end"), {"open": 1}, "body without end: 1 connections were still open"),
        (("slow", "ends", "answers not read"), {"open": 2}, "answers not read: 2 connections were still open"),
        (("slow", "ends", "head of 8 MB"), {"answered 200": 1}, "a head of 8 MB"),
        (("half_open", "ends", "silent"), {"open": 3}, "silent: 3 connections were still open"),
        (("slow", "ends", "body byte by byte"), {"open": 1}, "not answered"),
        (("half_open", "files"), [9, 309, 309], "309 after"),
        (("malformed", "problems"), {"a: status 500": 3}, "3 x a: status 500"),
        (("malformed", "restarts"), 1, "workers ended"),
        (("malformed", "requests"), 5, "5 of 9"),
        (("malformed", "memory", 2), leaked, "99 after"),
        (("malformed", "memory", 2), None, "gone"),
        (("server", "exit_code"), -9, "code -9"),
        (("server", "alive_at_the_end"), False, "ended by itself"),
        (("server", "logged"), {"errors": {"request_failed": 2}}, "2 x request_failed"),
    ]
    for path, value, text in wrong:
        result = json.loads(json.dumps(good_result()))
        inner = result
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        found = serve_report.failures(result)
        assert any(text in line for line in found), (path, found)
        assert text in serve_report.markdown({**result, "failures": found})


def test_a_real_server_for_a_few_seconds(tiny_bundle, tmp_path, capsys):
    told = ["--no-measure", "--minutes", "0.03", "--hold", "1.5", "--malformed", "150", "--half-open", "30"]
    for _ in range(2):
        code = serve.main([str(tiny_bundle), *told, "-o", str(tmp_path)])
        result = json.loads((tmp_path / "serve.json").read_text())
        # In so few seconds a pause of a busy machine looks like a fault; it does not come twice.
        if not result["failures"]:
            break
    assert (result["failures"], code) == ([], 0)
    assert [level["share"] for level in result["levels"]] == [0.5, 1, 2]
    for level in result["levels"]:
        assert level["accepted"] + sum(level["refused"].values()) == level["sent"] > 0
        assert sum(level["subnets"].values()) == level["accepted"]
    assert result["kill"]["kills"] == 2 <= result["kill"]["restarts"]
    assert result["slow"]["ends"]["body byte by byte"] == {"answered 200": 10}
    assert result["half_open"]["files"][1] >= result["half_open"]["files"][0] + 30
    assert result["malformed"]["requests"] >= 150
    assert "Nothing that must not be was seen." in (tmp_path / "serve.md").read_text()
    assert "images a second" in capsys.readouterr().out


def test_mistakes_of_users_are_one_line(tmp_path, capsys):
    assert serve.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("serve: the server did not start: ")
    with pytest.raises(SystemExit):
        serve.main([str(tmp_path), "--minutes", "0"])
