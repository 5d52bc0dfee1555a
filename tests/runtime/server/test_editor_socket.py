"""The editor's messages and frames, without a browser and without an engine."""

import asyncio
import io
import json
import logging
import struct

import numpy as np
import pytest
from editor_server import DIM, N_STYLE, FakeDispatcher, application
from fastapi.testclient import TestClient
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from anycost.errors import InputError
from anycost.runtime.budget import Budget
from anycost.runtime.server.editor import MOST_CODES, EditorSession
from anycost.runtime.server.editor_messages import MOST_TEXT, Message, encoded, frame, plan
from anycost.runtime.server.errors import NotFoundError, NothingFitsError, OverloadedError
from anycost.runtime.server.settings import Settings

CODES = [[0.25] * DIM] * N_STYLE


def parse(data):
    (length,) = struct.unpack(">I", data[:4])
    return json.loads(data[4 : 4 + length]), data[4 + length :]


class Desk:
    """A session over a made-up dispatcher, with the frames that it sent."""

    def __init__(self, **options):
        self.dispatcher = FakeDispatcher()
        self.frames = []
        self.session = EditorSession(self.dispatcher.generator, self.dispatcher.submit, self._sent, **options)

    async def _sent(self, data):
        self.frames.append(parse(data))

    def run(self, *messages):
        async def all_of_them():
            for message in messages:
                await self.session.receive(message if isinstance(message, str) else json.dumps(message))
                await self.session.wait()
            await self.session.close()

        asyncio.run(all_of_them())
        return [header for header, _ in self.frames]


def test_a_preview_by_the_budget_and_then_the_full_network():
    desk = Desk(client="me", memory_mb=900)
    preview, final = desk.run({"id": 3, "seed": 5, "values": {"smiling": 40, "young": 0}, "psi": 0.7})
    assert preview == {
        "id": 3,
        "view": "edited",
        "stage": "preview",
        "subnet": "0.5@32",
        "engine": "0.5@32/fake-fp16",
        "elapsed_ms": 12.345,
        "format": "png",
        "width": 32,
        "height": 32,
        "last": False,
    }
    assert (final["stage"], final["subnet"], final["format"], final["last"]) == ("final", "1@64", "png", True)
    first, second = desk.dispatcher.jobs
    # A slider at 0 is no edit.
    assert first.arguments == {"psi": 0.7, "values": {"smiling": 40}, "seeds": [5]}
    assert (first.operation, first.subnet, first.budget) == ("edit", None, None)
    # What was asked for by name may take longer than the server's budget, but no more memory.
    assert (second.operation, second.subnet, second.budget) == ("edit", "1@64", Budget(memory_mb=900))
    shown = np.asarray(Image.open(io.BytesIO(desk.frames[1][1])))
    assert shown.shape == (64, 64, 3)


def test_each_resolution_where_segments_lead_on():
    desk = Desk(memory_mb=900)
    desk.dispatcher.budget_choice, desk.dispatcher.further = "1@16", ("1@32", "1@64")
    found = desk.run({"id": 1, "seed": 0})
    assert [(h["stage"], h["subnet"], h["last"]) for h in found] == [
        ("preview", "1@16", False),
        ("step", "1@32", False),
        ("final", "1@64", True),
    ]
    asked = [(job.subnet, job.backend, job.toward, job.segments) for job in desk.dispatcher.jobs]
    assert asked == [(None, None, "1@64", False), ("1@32", "fake-fp16", None, True), ("1@64", "fake-fp16", None, True)]


def test_a_newer_message_ends_an_older_one_between_two_resolutions():
    desk = Desk()
    desk.dispatcher.budget_choice, desk.dispatcher.further = "1@16", ("1@32", "1@64")

    async def run():
        older = json.dumps({"id": 1, "seed": 0})
        while not any(header["stage"] == "step" for header, _ in desk.frames):
            if not desk.dispatcher.jobs:
                await desk.session.receive(older)
            await asyncio.sleep(0)
        desk.dispatcher.gate = asyncio.Event()
        desk.dispatcher.gate.set()
        await desk.session.receive(json.dumps({"id": 2, "seed": 1}))
        await desk.session.wait()

    asyncio.run(run())
    found = [(header["id"], header["stage"]) for header, _ in desk.frames]
    assert found == [(1, "preview"), (1, "step"), (2, "preview"), (2, "step"), (2, "final")]


@pytest.mark.parametrize("asked", [{"finalize": False}, {"ratio": 1}])
def test_nothing_is_kept_where_nothing_follows(asked):
    desk = Desk()
    desk.dispatcher.further = ("1@64",)
    desk.run({"id": 1, "seed": 0} | asked)
    assert [job.toward for job in desk.dispatcher.jobs] == [None]


def test_a_full_network_that_takes_too_much_memory():
    desk = Desk(memory_mb=50)
    submit = desk.session._submit

    async def strict(job, **options):
        if job.subnet == "1@64":
            raise NothingFitsError("nothing fits the budget")
        desk.dispatcher.budget_choice = "0.5@64" if job.budget else "0.5@16"
        return await submit(job, **options)

    desk.session._submit = strict
    found = desk.run({"id": 1, "seed": 0}, {"id": 2, "seed": 0, "ratio": 1, "resolution": 64})
    assert [(h["stage"], h.get("subnet")) for h in found] == [
        ("preview", "0.5@16"),
        ("final", "0.5@64"),
        ("error", None),
    ]


def test_one_frame_where_nothing_is_left_to_finalize():
    desk = Desk()
    desk.dispatcher.budget_choice = "1@64"
    assert [(h["stage"], h["last"]) for h in desk.run({"id": 1, "seed": 0})] == [("final", True)]
    desk = Desk()
    only = desk.run({"id": 1, "seed": 0, "finalize": False})
    assert [(h["stage"], h["last"], h["subnet"]) for h in only] == [("preview", True, "0.5@32")]


@pytest.mark.parametrize(
    ("asked", "first", "final", "budget"),
    [
        ({}, None, "1@64", None),
        ({"subnet": "0.5@16"}, "0.5@16", "0.5@64", None),
        ({"subnet": "odd"}, "odd", "odd", None),
        ({"ratio": 0.25}, "0.25@64", "0.25@64", None),
        ({"ratio": 0.25, "resolution": 32}, "0.25@32", "0.25@64", None),
        ({"resolution": 16}, None, "1@64", (None, 16, 16)),
        ({"resolution": 16, "budget": {"latency_ms": 9}}, None, "1@64", (9, 16, 16)),
        ({"budget": {"latency_ms": 9}}, None, "1@64", (9, None, None)),
    ],
)
def test_what_draws_the_preview_and_the_final_picture(asked, first, final, budget):
    todo = plan(Message(id=0, seed=0, **asked), FakeDispatcher().generator)
    assert (todo.first, todo.final) == (first, final)
    found = todo.budget and (todo.budget.latency_ms, todo.budget.min_resolution, todo.budget.max_resolution)
    assert found == budget


@pytest.mark.parametrize(
    "asked", [{"subnet": "2@64"}, {"ratio": 0.3}, {"resolution": 128}, {"ratio": 0.25, "resolution": 16}]
)
def test_sub_networks_that_are_not_there(asked):
    with pytest.raises(NotFoundError, match="GET /v1/models"):
        plan(Message(id=0, seed=0, **asked), FakeDispatcher().generator)


def test_codes_are_sent_once_and_kept():
    desk = Desk()
    headers = desk.run(
        {"id": 1, "w_id": "me", "finalize": False},
        {"id": 2, "w_id": "me", "w_plus": CODES, "finalize": False},
        {"id": 3, "w_id": "me", "values": {"young": -10}, "finalize": False},
    )
    assert [header.get("code") for header in headers] == ["unknown_codes", None, None]
    sent = desk.dispatcher.jobs[1].arrays["w_plus"]
    assert sent.shape == (1, N_STYLE, DIM)
    assert sent.dtype == np.float32
    assert "seeds" not in desk.dispatcher.jobs[1].arguments


def test_only_the_codes_used_last_are_kept():
    desk = Desk()
    many = [{"id": i, "w_id": f"w{i}", "w_plus": CODES, "finalize": False} for i in range(MOST_CODES + 1)]
    headers = desk.run(*many, {"id": 90, "w_id": "w0", "finalize": False}, {"id": 91, "w_id": "w1", "finalize": False})
    assert headers[-2]["code"] == "unknown_codes"
    assert headers[-1]["stage"] == "preview"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("", "JSON"),
        ("[]", "object"),
        ("[" * 5000, "JSON"),
        ({"id": 1}, "give a seed or a w_id"),
        ({"id": 1, "seed": 1, "w_id": "x"}, "one of the two"),
        ({"id": 1, "seed": 1, "w_plus": CODES}, "w_plus needs a w_id"),
        ({"id": 1, "seed": -1}, "seed"),
        ({"id": -1, "seed": 1}, "id"),
        ({"id": 2**53, "seed": 1}, "id"),
        ({"id": 1, "seed": 1, "psi": 3}, "psi"),
        ({"id": 1, "seed": 1, "values": {"young": 101}}, "values.young"),
        ({"id": 1, "seed": 1, "subnet": "1@64", "ratio": 1}, "not both"),
        ({"id": 1, "seed": 1, "budget": {"latency_ms": -1}}, "budget.latency_ms"),
        ({"id": 1, "seed": 1, "surprise": 1}, "surprise"),
        ('{"id": 1, "seed": 1, "psi": NaN}', ""),
        ({"id": 1, "w_id": "x" * 65, "w_plus": CODES}, "w_id"),
    ],
)
def test_messages_that_are_none(message, told):
    (header,) = Desk().run(message)
    assert header["stage"] == "error"
    assert header["code"] == "invalid"
    assert told in header["message"]


@pytest.mark.parametrize(
    "codes", [[[0.5] * DIM], [[0.5] * (DIM + 1)] * N_STYLE, [[1e39] * DIM] * N_STYLE, [[]], []], ids=str
)
def test_codes_of_another_generator(codes):
    (header,) = Desk().run({"id": 1, "w_id": "x", "w_plus": codes})
    assert header["stage"] == "error"
    assert header["id"] == 1


def test_a_message_that_is_too_long():
    (header,) = Desk().run(" " * (MOST_TEXT + 1))
    assert header["code"] == "too_large"


def test_refusals_reach_the_client_in_words():
    desk = Desk()
    desk.dispatcher.fail = OverloadedError("64 requests are waiting: try again later", retry_after=2)
    (header,) = desk.run({"id": 1, "seed": 1})
    assert header == {
        "id": 1,
        "view": "edited",
        "stage": "error",
        "code": "overloaded",
        "message": "64 requests are waiting: try again later",
        "last": True,
        "retry_after": 2,
    }


def test_no_path_and_no_trace_in_answers(caplog):
    desk = Desk(public=lambda text: text.replace("/secret/bundle", "the bundle"))
    desk.dispatcher.fail = InputError("/secret/bundle holds no directions")
    (header,) = desk.run({"id": 1, "seed": 1})
    assert header["message"] == "the bundle holds no directions"
    desk = Desk()
    desk.dispatcher.fail = ZeroDivisionError("at /secret/place")
    with caplog.at_level(logging.ERROR):
        (header,) = desk.run({"id": 1, "seed": 1})
    assert header["code"] == "failed"
    assert "secret" not in header["message"]
    assert "ZeroDivisionError" in caplog.text


def test_a_newer_message_cancels_the_older_of_its_view_only():
    desk = Desk()

    async def both():
        gate = desk.dispatcher.gate = asyncio.Event()
        for message in (
            {"id": 1, "seed": 1, "view": "original", "finalize": False},
            {"id": 2, "seed": 2, "finalize": False},
            {"id": 3, "seed": 3, "finalize": False},
        ):
            await desk.session.receive(json.dumps(message))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        gate.set()
        await desk.session.wait()

    asyncio.run(both())
    assert sorted(header["id"] for header, _ in desk.frames) == [1, 3]
    assert (desk.dispatcher.done, desk.dispatcher.cancelled) == (2, 1)


def test_a_newer_message_cancels_a_finalize_that_is_under_way():
    desk = Desk()

    async def edits():
        await desk.session.receive('{"id": 1, "seed": 1}')
        while not desk.frames:
            await asyncio.sleep(0.001)
        desk.dispatcher.gate = asyncio.Event()  # the final picture of 1 is held here
        while len(desk.dispatcher.jobs) < 2:
            await asyncio.sleep(0.001)
        await desk.session.receive('{"id": 2, "seed": 1, "finalize": false}')
        desk.dispatcher.gate.set()
        await desk.session.wait()

    asyncio.run(edits())
    found = [(header["id"], header["stage"]) for header, _ in desk.frames]
    assert found in ([(1, "preview"), (2, "preview")], [(1, "preview"), (1, "final"), (2, "preview")])
    assert found[-1] == (2, "preview")


def test_closing_ends_the_work():
    desk = Desk()

    async def leave():
        desk.dispatcher.gate = asyncio.Event()
        await desk.session.receive('{"id": 1, "seed": 1}')
        await asyncio.sleep(0.01)
        await desk.session.close()

    asyncio.run(leave())
    assert desk.dispatcher.cancelled == 1
    assert desk.frames == []


def test_a_client_that_is_gone_is_no_error(caplog):
    desk = Desk()

    async def gone(data):
        raise ConnectionError

    desk.session._send = gone
    with caplog.at_level(logging.ERROR):
        assert desk.run({"id": 1, "seed": 1}, "nonsense") == []
    assert caplog.text == ""


def test_pictures_and_frames():
    image = np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    kind, data = encoded(image, True)
    assert kind == "png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image)
    assert encoded(image, False) == (kind, data)
    kind, data = encoded(np.full((300, 300, 3), 90, np.uint8), False)
    assert kind == "jpeg"
    assert parse(frame({"id": 1}, data)) == ({"id": 1}, data)


# Over a real WebSocket


def client(token=None, **options):
    settings = Settings(bundle="nowhere", token=token, **options)
    return TestClient(application(settings, FakeDispatcher(), {}, []))


def test_a_conversation():
    with client().websocket_connect("/v1/editor") as socket:
        socket.send_text('{"id": 1, "seed": 0}')
        stages = [parse(socket.receive_bytes())[0]["stage"] for _ in range(2)]
        assert stages == ["preview", "final"]
        socket.send_bytes(b"\x00\x01")
        assert parse(socket.receive_bytes())[0]["code"] == "invalid"


def test_the_token_by_message_or_header():
    asked = client("secret")
    with asked.websocket_connect("/v1/editor") as socket:
        socket.send_text('{"token": "secret"}')
        socket.send_text('{"id": 1, "seed": 0, "finalize": false}')
        assert parse(socket.receive_bytes())[0]["stage"] == "preview"
    with asked.websocket_connect("/v1/editor", headers={"Authorization": "Bearer secret"}) as socket:
        socket.send_text('{"id": 1, "seed": 0, "finalize": false}')
        assert parse(socket.receive_bytes())[0]["stage"] == "preview"


@pytest.mark.parametrize(
    "first",
    ['{"token": "wrong"}', '{"token": "sécret"}', '{"token": 3}', "[1]", "no", "[" * 5000, '{"token": "\\ud800"}'],
)
def test_a_wrong_token_is_refused(first):
    with client("secret").websocket_connect("/v1/editor") as socket:
        socket.send_text(first)
        assert parse(socket.receive_bytes())[0]["code"] == "unauthorized"
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_bytes()
        assert closed.value.code == 4401


def test_a_silent_client_is_refused_in_time(monkeypatch):
    monkeypatch.setattr("anycost.runtime.server.routes.editor.TOKEN_WAIT_S", 0.05)
    with client("secret").websocket_connect("/v1/editor") as socket:
        assert parse(socket.receive_bytes())[0]["code"] == "unauthorized"


@pytest.mark.parametrize(
    ("origin", "allowed", "works"),
    [
        ("http://testserver", (), True),
        ("https://testserver", (), True),
        ("http://evil.example", (), False),
        ("http://testserver.evil.example", (), False),
        ("null", (), False),
        ("http://[", (), False),
        ("http://friend.example", ("http://friend.example",), True),
        ("http://anyone.example", ("*",), True),
    ],
)
def test_pages_of_other_origins(origin, allowed, works):
    asked = client(cors_origins=allowed)
    if works:
        with asked.websocket_connect("/v1/editor", headers={"Origin": origin}):
            return
    with (
        pytest.raises(WebSocketDisconnect),
        asked.websocket_connect("/v1/editor", headers={"Origin": origin}),
    ):
        pass


def test_sockets_of_one_client_are_limited():
    asked = client(per_client=1)
    with asked.websocket_connect("/v1/editor") as first:
        first.send_text('{"id": 1, "seed": 0, "finalize": false}')
        first.receive_bytes()
        with asked.websocket_connect("/v1/editor") as second:
            assert parse(second.receive_bytes())[0]["code"] == "too_many"
    with asked.websocket_connect("/v1/editor") as third:
        third.send_text('{"id": 1, "seed": 0, "finalize": false}')
        assert parse(third.receive_bytes())[0]["stage"] == "preview"


def test_the_page_and_its_files():
    asked = client("secret")
    page = asked.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy
    script = asked.get("/static/editor.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert asked.get("/static/editor.js", headers={"If-None-Match": script.headers["etag"]}).status_code == 304
    for wrong in ("/static/none.js", "/static/../settings.py", "/static/%2e%2e%2fsettings.py", "/static/__init__.py"):
        assert asked.get(wrong).status_code == 404
    assert "http://" not in page.text and "https://" not in page.text
