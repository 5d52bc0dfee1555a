"""The application on Ray Serve: what stands around it, and a cluster of this machine with a replica killed under load."""

import asyncio
import io
import json
import os
import signal
import threading
import time
from collections import Counter

import httpx
import numpy as np
import pytest

from anycost.errors import BackendError, BundleError, InputError
from anycost.runtime.bundle import open_bundle
from anycost.runtime.server import ray_bundle
from anycost.runtime.server.ray_app import Cluster, Share, parse_replicas, share
from anycost.runtime.server.ray_bundle import Depot, local_bundle
from anycost.runtime.server.ray_proxy import TRIES, Again
from anycost.runtime.server.settings import Settings


def asked(app, body=b"abc", most=1000, path="/v1/generate", left=False):
    """(status, headers, body) of a request through ``Again`` over an application, status None where nothing was sent."""
    sent, first = [], [True]

    async def receive():
        if first.pop() if first else False:
            return {"type": "http.request", "body": body, "more_body": False}
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": "POST", "headers": [(b"x-request-id", b"mine")]}
    asyncio.run(asyncio.wait_for(Again(app, most)(scope, receive, send), 20))
    if not sent:
        return None, [], b""
    return sent[0]["status"], sent[0]["headers"], b"".join(message.get("body", b"") for message in sent[1:])


class Application:
    """What Serve does, one behaviour after the other: ``answer``, ``lost``, ``late`` (after the headers), ``busy``, ``raise``."""

    def __init__(self, *behaviours):
        self.left = list(behaviours)
        self.bodies = []

    async def __call__(self, scope, receive, send):
        what = self.left.pop(0)
        self.bodies.append((await receive())["body"])
        ours = [(b"x-content-type-options", b"nosniff"), (b"x-request-id", b"mine"), (b"X-Request-ID", b"mine")]
        if what == "left":
            await receive()
        if what in ("answer", "late"):
            await send({"type": "http.response.start", "status": 200, "headers": ours})
        if what == "answer":
            await send({"type": "http.response.body", "body": b"image"})
        if what == "busy":
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b"/a/path"})
        if what == "raise":
            raise RuntimeError("replica")


@pytest.mark.parametrize("before", [[], ["lost"], ["late"], ["raise", "lost"]])
def test_a_lost_replica_costs_no_request(before):
    app = Application(*before, "answer")
    status, headers, body = asked(app)
    assert (status, body) == (200, b"image")
    assert app.bodies == [b"abc"] * (len(before) + 1)
    assert [name for name, _ in headers].count(b"x-request-id") == 1 and (b"X-Request-ID", b"mine") not in headers


def test_what_is_lost_again_and_again_is_503():
    app = Application(*["lost"] * TRIES, "answer")
    status, headers, body = asked(app)
    assert status == 503 and len(app.bodies) == TRIES and (b"retry-after", b"1") in headers
    assert json.loads(body)["error"]["code"] == "worker_lost" and json.loads(body)["error"]["request_id"] == "mine"


def test_what_serve_says_by_itself_is_503_in_our_words():
    status, headers, body = asked(Application("busy", "answer"))
    assert status == 503 and json.loads(body)["error"]["code"] == "overloaded" and b"/a/path" not in body
    assert (b"retry-after", b"1") in headers


def test_nobody_asks_again_for_a_client_that_left():
    app = Application("left", "answer")
    assert asked(app, left=True)[0] is None and len(app.bodies) == 1


def test_a_body_that_is_too_large_is_413():
    app = Application("answer")
    status, _, body = asked(app, b"x" * 1001)
    assert status == 413 and json.loads(body)["error"]["code"] == "too_large" and app.bodies == []


def test_replicas():
    assert [parse_replicas(text) for text in ("2", "1:8", "3:")] == [(2, 2), (1, 8), (3, None)]
    for text in ("", "a", "1:b", "-1", "1:2:3"):
        with pytest.raises(InputError, match="are not a number, or LEAST:MOST"):
            parse_replicas(text)
    with pytest.raises(InputError, match="replicas 4:2 do not rise"):
        Cluster(least=4, most=2)
    with pytest.raises(InputError, match="cpus -1 of a replica"):
        Cluster(cpus=-1)


CPU_NODES = [{"CPU": 8.0}, {"CPU": 4.0}, {"CPU": 0.0}]
GPU_NODES = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 8.0}]


@pytest.mark.parametrize(
    ("nodes", "cluster", "wants_gpu", "settings", "expected"),
    [
        # All cores of the smallest node that has any, and so one a node; two where a node is as large as two.
        (CPU_NODES, Cluster(), True, {}, Share(4, 0, 3)),
        (CPU_NODES, Cluster(cpus=2), False, {}, Share(2, 0, 6)),
        (CPU_NODES, Cluster(least=5), False, {"threads": 8}, Share(8, 0, 5)),
        (CPU_NODES, Cluster(most=2), False, {"threads": 1, "workers": 2}, Share(2, 0, 2)),
        # One a GPU, with its part of the cores; nodes without one are left out.
        (GPU_NODES, Cluster(), True, {}, Share(4, 1, 4)),
        (GPU_NODES, Cluster(), False, {}, Share(8, 0, 3)),
        (GPU_NODES, Cluster(gpus=0.5), True, {}, Share(2, 0.5, 8)),
        (GPU_NODES, Cluster(gpus=0, cpus=1), True, {}, Share(1, 0, 24)),
    ],
)
def test_what_a_replica_gets(nodes, cluster, wants_gpu, settings, expected, tmp_path):
    assert share(nodes, cluster, wants_gpu, Settings(tmp_path, **settings)) == expected


class Remote:
    """A depot of another node, without Ray: ``handle.method.remote(...)`` and ``ray.get``."""

    def __init__(self, depot):
        self.calls = Counter()
        for name in ("sizes", "read"):
            setattr(self, name, type("Method", (), {"remote": staticmethod(self._counted(depot, name))}))

    def _counted(self, depot, name):
        def call(*arguments):
            self.calls[name] += 1
            return getattr(depot, name)(*arguments)

        return call


def test_one_copy_on_a_node(small_bundle, monkeypatch, tmp_path):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "get", lambda value: value)
    monkeypatch.setattr(ray_bundle, "PIECE", 10_000)
    sha256 = open_bundle(small_bundle).manifest_sha256
    depot = Remote(Depot(str(small_bundle)))
    assert local_bundle(str(small_bundle), sha256, depot) == small_bundle and not depot.calls
    elsewhere = str(tmp_path / "not here")
    found = local_bundle(elsewhere, sha256, depot)
    assert found != small_bundle and open_bundle(found).manifest_sha256 == sha256
    calls = depot.calls.copy()
    assert calls["read"] > 10
    assert local_bundle(elsewhere, sha256, depot) == found and depot.calls == calls
    # Another bundle at the same place is not this one.
    assert local_bundle(str(small_bundle), "0" * 64, depot).name == "0" * 32
    with pytest.raises(BundleError, match="no file of the bundle"):
        Depot(str(small_bundle)).read("../manifest.json", 0)


@pytest.mark.ray
def test_a_replica_killed_under_load_loses_no_request(small_bundle):
    """Two replicas on a cluster of this machine; one is killed while four clients ask."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.serve", reason="the extra ray brings it")
    from ray import serve

    from anycost.runtime.server import ray_app

    settings = Settings(small_bundle, port=0, threads=1, drain_s=5)
    cluster = Cluster(least=2, most=2, cpus=0.5)
    address = ray_app.start(settings, cluster, open_bundle(small_bundle), measure=False)
    try:
        replicas = _replicas(ray)
        assert len(replicas) == 2
        told, ended = [], threading.Event()

        def client(number):
            with httpx.Client(base_url=address, timeout=30) as http:
                while not ended.is_set():
                    try:
                        answer = http.post("/v1/generate", json={"seeds": [number], "format": "npy"})
                        told.append((time.monotonic(), answer.status_code, answer.content[:80]))
                    except httpx.HTTPError as error:
                        told.append((time.monotonic(), type(error).__name__, b""))

        clients = [threading.Thread(target=client, args=(number,)) for number in range(4)]
        for thread in clients:
            thread.start()
        time.sleep(2)
        killed = time.monotonic()
        os.kill(replicas.pop(next(iter(replicas))), signal.SIGKILL)
        deadline = killed + 40
        while time.monotonic() < deadline:
            states = serve.status().applications[ray_app.APPLICATION].deployments[ray_app.APPLICATION].replica_states
            if states.get("RUNNING", 0) == 2 and len(set(_replicas(ray)) - set(replicas)) == 1:
                break
            time.sleep(0.5)
        else:
            pytest.fail(f"the replica did not come back: {states}")
        time.sleep(1)
        ended.set()
        for thread in clients:
            thread.join()
        counts = Counter(status for _, status, _ in told)
        print(
            f"{dict(counts)} in {told[-1][0] - told[0][0]:.1f} s, two replicas again {told[-1][0] - killed:.1f} s after"
        )
        assert set(counts) <= {200, 503} and counts[200] > 20, counts
        after = [status for at, status, _ in told if at > killed + 1]
        assert after.count(200) > 0.9 * len(after)
        # The rest of the application is there as well, with the errors that it has alone.
        with httpx.Client(base_url=address, timeout=30) as http:
            assert http.get("/health/ready").status_code == 200
            assert http.get("/nothing").json()["error"]["code"] == "not_found"
            assert len(http.get("/nothing").headers.get_list("x-request-id")) == 1
            image = http.post("/v1/generate", json={"seeds": [1, 2], "format": "npy"}).content
            assert np.load(io.BytesIO(image)).shape == (2, 32, 32, 3)
        with pytest.raises(BackendError, match="runs Ray Serve already"):
            ray_app._refuse_other_serve(ray)
    finally:
        ray_app.stop()


def _replicas(ray):
    """Process ids of the replicas by their actors' names."""
    found = {}
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["name"].startswith("SERVE_REPLICA::anycost"):
            handle = ray.get_actor(actor["name"], namespace=actor["namespace"])
            try:
                found[actor["name"]] = ray.get(handle.__ray_call__.remote(lambda self: os.getpid()), timeout=10)
            except ray.exceptions.RayError:
                continue  # it is ending or starting
    return found
