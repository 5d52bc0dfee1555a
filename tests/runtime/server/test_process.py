"""A server as a process of its own: starting, limits, worker deaths, and stopping under load."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from served import as_file, picture, serving
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

GENERATE = {"seeds": [0], "subnet": "1@32"}
# What a page of that name would send, whose name was pointed to this machine.
STRANGE = {"Host": "rebound.example:8000", "Origin": "http://rebound.example:8000"}


def anycost_serve(*options):
    command = [sys.executable, "-m", "anycost.cli", "serve", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class TestStart:
    def test_a_port_in_use_is_one_line(self, full_bundle):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            done = anycost_serve(full_bundle, "--port", taken.getsockname()[1])
        assert done.returncode == 2 and "in use" in done.stderr and len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--workers", "0"], "workers 0 is outside"),
            (["--port", "70000"], "port 70000"),
            (["--host", "no.such.host.invalid", "--port", "0"], "is not known"),
            (["--token-file", "missing"], "token missing cannot be read"),
            (["--cors", "example.org"], "is not an address"),
            (["--allow-host", "http://x"], "'http://x' is not a name"),
            (["--deadline", "soon"], "'soon' is not a time"),
            (["--min-resolution", "64", "--port", "0"], "nothing fits"),
        ],
    )
    def test_mistakes_are_one_line(self, full_bundle, options, told):
        done = anycost_serve(full_bundle, *options)
        assert done.returncode == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr

    def test_no_bundle_is_one_line(self, tmp_path):
        done = anycost_serve(tmp_path / "nothing", "--port", "0")
        assert done.returncode == 2 and "is not a folder" in done.stderr and len(done.stderr.splitlines()) == 1

    def test_a_worker_that_cannot_load_ends_the_start(self, full_bundle, tmp_path, monkeypatch):
        """Where the files are right and the library fails: here because the worker finds none."""
        (tmp_path / "onnxruntime").mkdir()
        (tmp_path / "onnxruntime" / "__init__.py").write_text("raise ImportError('broken')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        done = anycost_serve(full_bundle, "--port", "0")
        assert done.returncode == 2 and "Traceback" not in done.stderr


class TestNames:
    def test_another_name_is_refused(self, server):
        with server.client() as client:
            for path in ("/", "/health/live", "/v1/models", "/v2", "/static/editor.js"):
                answer = client.get(path, headers=STRANGE)
                assert answer.status_code == 421 and '"wrong_host"' in answer.text
            port = server.address.rpartition(":")[2]
            assert client.get("/v1/models", headers={"Host": f"localhost:{port}"}).status_code == 200

    def test_nor_does_the_editor_listen_to_it(self, server):
        host, port = server.address.removeprefix("http://").split(":")
        for origin in ("http://rebound.example:8000", None):
            with socket.create_connection((host, int(port))) as wire, pytest.raises(InvalidStatus) as refused:
                connect("ws://rebound.example:8000/v1/editor", sock=wire, origin=origin)
            assert refused.value.response.status_code == 403

    def test_names_can_be_added(self, full_bundle):
        with serving(full_bundle, "--allow-host", "images.example.org") as served, served.client() as client:
            for name, status in (("images.example.org", 200), ("127.0.0.1", 200), ("rebound.example", 421)):
                assert client.get("/v1/models", headers={"Host": name}).status_code == status

    def test_a_token_is_enough(self, full_bundle, tmp_path):
        (tmp_path / "token").write_text("s3cret")
        with serving(full_bundle, "--token-file", tmp_path / "token") as served, served.client() as client:
            headers = {"Authorization": "Bearer s3cret", "Host": "images.example.org"}
            assert client.get("/v1/models", headers=headers).status_code == 200


class TestLimits:
    @pytest.fixture(scope="class")
    def limited(self, full_bundle, tmp_path_factory):
        token = tmp_path_factory.mktemp("token") / "token"
        token.write_text("s3cret-token\n")
        options = ("--token-file", token, "--max-body", 0.1, "--max-pixels", 10_000, "--max-images", 2)
        options += ("--per-client", 2, "--cors", "https://friend.example")
        with serving(full_bundle, *options) as served:
            yield served

    @pytest.fixture
    def client(self, limited):
        with limited.client(headers={"Authorization": "Bearer s3cret-token"}) as found:
            yield found

    def test_the_token(self, limited, client):
        with limited.client() as nobody:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret-token"}):
                answer = nobody.post("/v1/generate", json=GENERATE, headers=headers)
                assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
                assert nobody.get("/metrics", headers=headers).status_code == 401
            assert nobody.get("/v2").json()["code"] == "unauthorized"
            for path in ("/health/live", "/v2/health/ready", "/"):
                assert nobody.get(path).status_code == 200
        assert client.post("/v1/generate", json=GENERATE).status_code == 200

    def test_a_large_body_is_refused_before_it_is_read(self, limited):
        host, port = limited.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(
                b"POST /v1/encode HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret-token\r\nContent-Length: 5000000\r\n\r\n"
            )
            assert raw.recv(100).startswith(b"HTTP/1.1 413")

    def test_a_large_body_without_a_length(self, client):
        answer = client.post("/v1/encode", content=(b"x" * 10_000 for _ in range(100)))
        assert answer.status_code == 413

    def test_packed_bodies(self, client):
        answer = client.post("/v1/encode", content=b"x", headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 415

    def test_images_of_one_request(self, client):
        assert client.post("/v1/generate", json={"seeds": [0, 1, 2]}).status_code == 400

    def test_pixels(self, client):
        answer = client.post("/v1/encode", content=as_file(picture(60, 200) // 255))
        assert answer.status_code == 413 and "10000 are allowed" in answer.json()["error"]["message"]

    def test_requests_of_one_client_at_a_time(self, limited, client):
        """Two that do not end keep a third out; health is always answered."""
        host, port = limited.address.removeprefix("http://").split(":")
        head = (
            b"POST /v1/encode HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer s3cret-token\r\nContent-Length: 9\r\n\r\nx"
        )
        held = [socket.create_connection((host, int(port)), timeout=10) for _ in range(2)]
        try:
            for raw in held:
                raw.sendall(head)
            until(lambda: client.get("/v1/models").status_code == 429)
            answer = client.get("/v1/models")
            assert answer.headers["Retry-After"] == "1" and answer.json()["error"]["code"] == "too_many"
            assert client.get("/health").status_code == 200
        finally:
            for raw in held:
                raw.close()
        until(lambda: client.get("/v1/models").status_code == 200)

    def test_a_page_of_the_origin_that_was_given_may_call(self, client):
        ask = {"Origin": "https://friend.example", "Access-Control-Request-Method": "POST"}
        answer = client.options("/v1/generate", headers={**ask, "Access-Control-Request-Headers": "authorization"})
        assert answer.headers["access-control-allow-origin"] == "https://friend.example"
        answer = client.get("/v1/models", headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in answer.headers


def until(true, seconds=10):
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_overload_is_503_with_retry_after_and_deadlines_are_kept(full_bundle):
    """The worker is stopped, so that nothing moves: one job runs, two wait, and the next is refused."""
    with serving(full_bundle, "--queue", 2, "--max-batch", 1, "--per-client", 100) as served, served.client() as client:
        client.post("/v1/generate", json=GENERATE)
        os.kill(served.workers[0], signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(8) as threads:
                late = [
                    threads.submit(client.post, "/v1/generate", json={**GENERATE, "deadline_ms": 1500})
                    for _ in range(3)
                ]
                until(lambda: client.get("/health").json()["queue"] == 2)
                refused = client.post("/v1/generate", json=GENERATE)
                assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
                assert refused.json()["error"]["code"] == "overloaded"
                for answer in (one.result() for one in late):
                    assert answer.status_code == 503 and answer.json()["error"]["code"] == "deadline"
                answer = client.post("/v1/generate", json=GENERATE, headers={"X-Deadline-Ms": "50"})
                assert answer.json()["error"]["code"] == "deadline"
        finally:
            os.kill(served.workers[0], signal.SIGCONT)
        assert client.post("/v1/generate", json=GENERATE).status_code == 200
        assert client.post("/v1/generate", json=GENERATE, headers={"X-Deadline-Ms": "x"}).status_code == 400
        text = client.get("/metrics").text
        assert 'anycost_rejected_total{code="overloaded"} 1.0' in text
        assert 'anycost_rejected_total{code="deadline"} 4.0' in text


def test_a_client_that_goes_away_frees_its_place(full_bundle):
    with serving(full_bundle, "--queue", 4) as served, served.client() as client:
        client.post("/v1/generate", json=GENERATE)
        os.kill(served.workers[0], signal.SIGSTOP)
        try:
            for _ in range(3):
                with pytest.raises(httpx.ReadTimeout):
                    httpx.post(f"{served.address}/v1/generate", json=GENERATE, timeout=0.3)
            until(lambda: client.get("/health").json()["queue"] == 0)
        finally:
            os.kill(served.workers[0], signal.SIGCONT)
        assert client.post("/v1/generate", json=GENERATE).status_code == 200


def load(address, stop, answers, number):
    """Requests one after the other until ``stop`` or a 503; a connection that was not accepted is no request."""
    with httpx.Client(base_url=address, timeout=60) as client:
        seed = number
        while not stop.is_set():
            seed += 10
            try:
                answer = client.post("/v1/generate", json={"seeds": [seed], "psi": 0.9})
            except httpx.ConnectError:
                return
            except httpx.HTTPError as error:
                answers.append(repr(error))
                return
            answers.append(answer.status_code)
            if answer.status_code == 503:
                assert int(answer.headers["Retry-After"]) >= 1 and answer.headers["Connection"] == "close"
                return


def under_load(served, disturb, clients=4):
    """Statuses of all requests of some clients, while something happens."""
    stop, answers = threading.Event(), []
    threads = [threading.Thread(target=load, args=(served.address, stop, answers, i)) for i in range(clients)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(answers) > 10)
        disturb(answers)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    return answers


def test_no_request_is_lost_when_a_worker_is_killed(full_bundle):
    with serving(full_bundle, "--workers", 2) as served:
        until(lambda: len(served.workers) == 2)

        def disturb(answers):
            for _ in range(3):
                known = len(served.workers)
                os.kill(served.workers[-1], signal.SIGKILL)
                until(lambda known=known: len(served.workers) > known, 20)
            seen = len(answers)
            until(lambda: len(answers) > seen + 10)

        answers = under_load(served, disturb)
        assert set(answers) == {200}, answers
        with served.client() as client:
            assert "anycost_worker_restarts_total 3.0" in client.get("/metrics").text


def test_not_ready_while_the_only_worker_is_away(full_bundle):
    with serving(full_bundle) as served, served.client() as client:
        os.kill(served.workers[0], signal.SIGKILL)
        seen = set()
        until(lambda: seen.add(client.get("/health/ready").status_code) or 503 in seen)
        assert client.get("/health/live").status_code == 200
        assert client.post("/v1/generate", json=GENERATE).status_code == 200  # it waits for the next worker
        assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_answers_everything_that_was_accepted(full_bundle, number):
    with serving(full_bundle) as served:

        def disturb(answers):
            os.kill(served.process.pid, number)
            served.process.wait(30)

        answers = under_load(served, disturb, clients=6)
        assert served.stop() == 0
        assert set(answers) <= {200, 503} and 200 in answers, answers
        assert not any(alive(pid) for pid in served.workers)
        events = [json.loads(line) for line in served.log if line.startswith("{")]
        assert [one["event"] for one in events][-1] == "stopped" and "Traceback" not in "".join(served.log)


def test_what_waits_is_finished_after_the_signal(full_bundle):
    with serving(full_bundle, "--per-client", 100) as served, served.client() as client:
        client.post("/v1/generate", json=GENERATE)
        os.kill(served.workers[0], signal.SIGSTOP)
        with ThreadPoolExecutor(12) as threads:
            waiting = [threads.submit(client.post, "/v1/generate", json={"seeds": [i]}) for i in range(12)]
            until(lambda: client.get("/health").json()["queue"] >= 11)
            os.kill(served.process.pid, signal.SIGTERM)
            until(lambda: client.get("/health").json()["status"] == "draining")
            refused = client.post("/v1/generate", json=GENERATE)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "draining"
            os.kill(served.workers[0], signal.SIGCONT)
            assert [one.result().status_code for one in waiting] == [200] * 12
        assert served.stop() == 0


def test_workers_end_with_a_server_that_is_killed(full_bundle):
    with serving(full_bundle) as served:
        served.process.kill()
        served.process.wait()
        until(lambda: not any(alive(pid) for pid in served.workers))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_connections_without_a_request_are_closed(full_bundle, tmp_path, monkeypatch):
    """With the limit of time made short: one that says nothing, one that stops in its headers, and one that goes on slowly."""
    (tmp_path / "sitecustomize.py").write_text("import anycost.runtime.server.connections as c; c.HEAD_S = 0.5\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving(full_bundle) as served:
        host, port = served.address.removeprefix("http://").split(":")
        silent, half = (socket.create_connection((host, int(port)), timeout=10) for _ in range(2))
        half.sendall(b"GET /health HTTP/1.1\r\nHos")
        slow = socket.create_connection((host, int(port)), timeout=10)
        slow.sendall(b"GET /health HTTP/1.1\r\nX-A: ")

        def drips():
            try:
                slow.sendall(b"x")
            except OSError:
                return False
            time.sleep(0.1)
            return True

        until(lambda: not drips())
        slow.close()
        for raw in (silent, half):
            with raw:
                assert ended(raw)
        with served.client() as client:
            assert client.get("/health").status_code == 200


def ended(raw):
    try:
        return raw.recv(100) == b""
    except ConnectionResetError:
        return True
