"""The editor's finalization by segments: through the application and a real worker, and what a worker keeps for it."""

import io
import json
import struct

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import anycost
from anycost.runtime.bundle import open_bundle
from anycost.runtime.profile import ChainMeasurement, Measurement, Profile
from anycost.runtime.segments import Reached, ReachedStore
from anycost.runtime.server.app import create_app
from anycost.runtime.server.operations import Operations, Task
from anycost.runtime.server.settings import Settings


def profile(bundle, overhead):
    """OpenVINO is the fastest of every sub-network."""
    engines, chains = {}, {}
    for net in bundle.generator.subnets:
        for backend, factor in (("openvino", 1), ("onnxruntime", 3)):
            time = factor * net.macs / 1e6
            engines[f"{net.name}/{backend}"] = Measurement(p50_ms=time, p95_ms=time, load_ms=1, memory_mb=1, runs=9)
            if net.ratio and net.resolution > 8:
                measured = ChainMeasurement(segments_ms=(1 + overhead,), whole_ms=1, runs=9)
                chains[f"{net.name}/{backend}"] = measured
    sha256 = bundle.manifest_sha256
    return Profile(device="test", threads=1, bundle_sha256=sha256, engines=engines, chains=chains)


def frames(folder, message, overhead=0.02, **settings):
    bundle = open_bundle(folder)
    app = create_app(Settings(folder, threads=1, **settings), bundle=bundle, profile=profile(bundle, overhead))
    found = []
    with TestClient(app) as client, client.websocket_connect("/v1/editor") as socket:
        socket.send_text(json.dumps(message))
        while not found or not found[-1][0]["last"]:
            data = socket.receive_bytes()
            (length,) = struct.unpack(">I", data[:4])
            header = json.loads(data[4 : 4 + length])
            assert header["stage"] != "error", header
            found.append((header, np.asarray(Image.open(io.BytesIO(data[4 + length :])))))
    return found


def told(found):
    return [(header["stage"], header["subnet"], header["engine"]) for header, _ in found]


MESSAGE = {"id": 1, "seed": 3, "psi": 0.8, "ratio": 1, "resolution": 8}


def test_each_resolution_is_shown_and_is_the_whole_engines(segmented_bundle):
    found = frames(segmented_bundle, MESSAGE)
    assert told(found) == [
        ("preview", "1@8", "1@4-8/openvino"),
        ("step", "1@16", "1@8-16/openvino"),
        ("final", "1@32", "1@16-32/openvino"),
    ]
    runtime = anycost.open(segmented_bundle, threads=1)
    for header, image in found:
        (whole,) = runtime.generate(seeds=[3], psi=0.8, subnet=header["subnet"], backend="openvino")
        # Other sums in another order: a value may round to its neighbour.
        assert np.abs(image.astype(int) - whole).max() <= 1 and (image == whole).mean() > 0.99


@pytest.mark.parametrize("options", [{"overhead": 0.2}, {"workers": 2}], ids=["too slow", "several workers"])
def test_whole_engines_where_segments_are_not_worth_it(segmented_bundle, options):
    found = frames(segmented_bundle, MESSAGE, **options)
    assert told(found) == [("preview", "1@8", "1@8/openvino"), ("final", "1@32", "1@32/openvino")]


def test_a_worker_goes_on_from_what_the_same_codes_came_to(segmented_bundle, monkeypatch):
    operations = Operations(anycost.open(segmented_bundle, threads=1))
    operations.load_segments("1@32", "openvino")
    ran = []
    run = operations.runtime.segments.run
    monkeypatch.setattr(
        operations.runtime.segments, "run", lambda link, *more: ran.append(link.name) or run(link, *more)
    )

    def ask(subnet, seed):
        how = {"subnet": subnet, "variant": "openvino", "chunk": 8, "segments": True}
        (outcome,) = operations.run("pictures", how, [Task({"seeds": [seed]}, {})])
        assert outcome.error == "" and outcome.arrays["images"].shape[1] == int(subnet[2:])
        return outcome.loaded

    # Only what is computed from the beginning, by engines that were open, measures them.
    assert [ask("1@8", 1), ask("1@8", 2)] == [False, False] and ran == ["1@4-8"] * 2
    assert ask("1@32", 1) and ran[2:] == ["1@8-16", "1@16-32"]
    assert ask("1@16", 2) and ran[4:] == ["1@8-16"]
    # The end of a chain leads nowhere, and is not kept.
    assert not ask("1@32", 1) and ran[5:] == ["1@4-8", "1@8-16", "1@16-32"]


class TestStore:
    @staticmethod
    def reached(code, subnet="1@8", variant="openvino", size=10):
        image = np.zeros(size, np.float32)
        return Reached(np.full((1, 2, 3), code, np.float32), subnet, variant, "", image, image)

    def test_by_codes_and_variant(self):
        store = ReachedStore()
        first = self.reached(1)
        store.keep(first)
        assert store.of(first.w_plus.copy(), "openvino") is first
        assert store.of(first.w_plus, "onnxruntime") is None and store.of(first.w_plus + 1, "openvino") is None
        further = self.reached(1, "1@16")
        store.keep(further)
        assert store.of(first.w_plus, "openvino") is further

    def test_the_oldest_leave_when_there_is_no_room(self):
        store = ReachedStore(most_bytes=200)
        for code in (1, 2, 3):
            store.keep(self.reached(code))  # 80 bytes
        held = [code for code in (1, 2, 3) if store.of(self.reached(code).w_plus, "openvino")]
        assert held == [2, 3]
        store.keep(self.reached(4, size=100))
        assert not store._kept
