"""Live editing with engines that do nothing but wait to be let go: no sleeps, no clocks."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from anycost.errors import BackendError, BudgetError, InputError
from anycost.runtime.budget import Budget
from anycost.runtime.bundle import open_bundle
from anycost.runtime.live import Live
from anycost.runtime.profile import ChainMeasurement, Measurement, Profile
from anycost.runtime.runtime import Runtime

LONG = 30  # seconds after which a test has failed


class Script:
    """Which engines ran with which codes, in order. An engine that is held waits until it is let go."""

    def __init__(self):
        self.calls, self.held, self.wrong = [], set(), set()
        self._changed = threading.Condition()

    def enter(self, name, code):
        with self._changed:
            self.calls.append((name, code))
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: name not in self.held, LONG)
        if name in self.wrong:
            raise BackendError(f"{name} is broken")

    def wait(self, name, code):
        with self._changed:
            assert self._changed.wait_for(lambda: (name, code) in self.calls, LONG)

    def let_go(self, name):
        with self._changed:
            self.held.discard(name)
            self._changed.notify_all()


class FakeEngine:
    """Images whose every value is their codes' first one over 100."""

    def __init__(self, script, record, name):
        self.script, self.record, self.name = script, record, name

    def run(self, inputs):
        assert {name: array.shape[1:] for name, array in inputs.items()} == self.record.inputs
        value = float(inputs["w_plus"][0, 0, 0])
        self.script.enter(self.name, round(value))
        return {name: np.full((1, *shape), value / 100, np.float32) for name, shape in self.record.outputs.items()}


# Distance to the full network and milliseconds of each sub-network.
FIGURES = {
    "1@32": (0.0, 32),
    "0.5@32": (0.1, 24),
    "odd": (0.15, 64),
    "1@16": (0.2, 16),
    "0.5@16": (0.3, 12),
    "1@8": (0.4, 8),
    "0.5@8": (0.5, 4),
}


class FakeRuntime(Runtime):
    """A real bundle with these figures and engines of the script. overhead: of segments."""

    def __init__(self, folder, script, overhead=0.02):
        bundle = open_bundle(folder)
        nets = tuple(net.model_copy(update={"distance": FIGURES[net.name][0]}) for net in bundle.generator.subnets)
        generator = bundle.generator.model_copy(update={"subnets": nets})
        manifest = bundle.manifest.model_copy(update={"generator": generator})
        super().__init__(replace(bundle, manifest=manifest), threads=1)
        self.script = script
        engines, chains = {}, {}
        for net in self.subnets:
            for backend, factor in (("openvino", 1.0), ("onnxruntime", 3.0)):
                time = FIGURES[net.name][1] * factor
                name = f"{net.name}/{backend}"
                engines[name] = Measurement(p50_ms=time, p95_ms=time, load_ms=1, memory_mb=1, runs=10)
                if net.ratio and net.resolution > 8:
                    chains[name] = ChainMeasurement(segments_ms=(1 + overhead,), whole_ms=1, runs=10)
        self._profile = Profile(
            device="test", threads=1, bundle_sha256=self.bundle.manifest_sha256, engines=engines, chains=chains
        )

    def _load(self, network, variant):
        if network == "mapping":
            return None
        (record,) = (engine for engine in self.bundle.engines(network) if engine.variant == variant)
        return FakeEngine(self.script, record, network)


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def codes():
    return lambda value: np.full((1, 8, 64), value, np.float32)


@pytest.fixture
def start(segmented_bundle, script):
    """Opens live sessions whose frames are collected, and closes them."""
    opened = []

    def open_live(overhead=0.02, **options):
        frames = []
        runtime = FakeRuntime(segmented_bundle, script, overhead)
        live = Live(runtime, on_image=options.pop("on_image", frames.append), clock=lambda: 0.0, **options)
        opened.append(live)
        return live, frames

    yield open_live
    script.held.clear()
    for live in opened:
        live.close()


def stages(frames):
    return [(frame.id, frame.stage, frame.subnet) for frame in frames]


def posted(live, count):
    """Waits until an edit that blocks in another thread has been handed over."""
    with live._changed:
        assert live._changed.wait_for(lambda: live._count == count, LONG)


def test_a_preview_and_then_only_what_is_new(start, script, codes):
    live, frames = start(budget=Budget(latency_ms=8))
    preview = live.edit(codes(7))
    assert (preview.stage, preview.id, preview.subnet, preview.engine) == ("preview", 1, "1@8", "1@4-8/openvino")
    assert preview.image.shape == (8, 8, 3) and preview.image.dtype == np.uint8 and (preview.image == 136).all()
    final = live.final(LONG)
    assert (final.stage, final.subnet, final.engine) == ("final", "1@32", "1@16-32/openvino")
    assert stages(frames) == [(1, "step", "1@16"), (1, "final", "1@32")]
    assert script.calls == [("1@4-8", 7), ("1@8-16", 7), ("1@16-32", 7)]
    assert live.final(LONG) is final


def test_a_newer_edit_stops_an_older_one_between_segments(start, script, codes):
    live, frames = start(budget=Budget(latency_ms=8))
    script.held.add("1@8-16")
    live.edit(codes(1))
    script.wait("1@8-16", 1)
    with ThreadPoolExecutor() as pool:
        newer = pool.submit(live.edit, codes(2))
        posted(live, 2)
        script.let_go("1@8-16")
        assert newer.result(LONG).id == 2
    assert live.final(LONG).id == 2
    # One segment of the older edit was running; neither its result nor the next was wanted.
    assert script.calls == [("1@4-8", 1), ("1@8-16", 1), ("1@4-8", 2), ("1@8-16", 2), ("1@16-32", 2)]
    assert stages(frames) == [(2, "step", "1@16"), (2, "final", "1@32")]


def test_previews_of_several_threads_come_before_any_final(start, script, codes):
    live, frames = start(budget=Budget(latency_ms=8))
    script.held.add("1@4-8")
    with ThreadPoolExecutor() as pool:
        edits = []
        for i in range(4):
            edits.append(pool.submit(live.edit, codes(i)))
            posted(live, i + 1)
        script.let_go("1@4-8")
        assert [edit.result(LONG).id for edit in edits] == [1, 2, 3, 4]
    live.final(LONG)
    assert script.calls == [("1@4-8", i) for i in range(4)] + [("1@8-16", 3), ("1@16-32", 3)]
    assert stages(frames) == [(4, "step", "1@16"), (4, "final", "1@32")]


def test_without_worthwhile_segments_whole_engines_run_and_old_results_are_dropped(start, script, codes):
    live, frames = start(overhead=0.05, budget=Budget(latency_ms=8))
    script.held.add("1@32")
    assert live.edit(codes(1)).engine == "1@8/openvino"
    script.wait("1@32", 1)
    with ThreadPoolExecutor() as pool:
        newer = pool.submit(live.edit, codes(2))
        posted(live, 2)
        script.let_go("1@32")
        newer.result(LONG)
    assert live.final(LONG).engine == "1@32/openvino"
    assert script.calls == [("1@8", 1), ("1@32", 1), ("1@8", 2), ("1@32", 2)]
    assert stages(frames) == [(2, "final", "1@32")]


def test_a_preview_of_another_ratio_is_whole_and_steps_below_it_are_not_shown(start, script, codes):
    live, frames = start(budget=Budget(latency_ms=12, min_resolution=16))
    assert live.edit(codes(3)).engine == "0.5@16/openvino"
    live.final(LONG)
    assert script.calls == [("0.5@16", 3), ("1@4-8", 3), ("1@8-16", 3), ("1@16-32", 3)]
    # 8 px is less than what is seen; the same resolution with all channels is more.
    assert stages(frames) == [(1, "step", "1@16"), (1, "final", "1@32")]


def test_segments_that_would_leave_the_budget_are_not_used_for_the_preview(start, script, codes):
    live, _ = start(budget=Budget(latency_ms=16.2, min_resolution=16))
    assert live.edit(codes(3)).engine == "1@16/openvino"
    live.close()
    live, _ = start(budget=Budget(latency_ms=16.5, min_resolution=16))
    assert live.edit(codes(3)).engine == "1@8-16/openvino"


def test_a_named_final_and_one_that_the_preview_already_is(start, script, codes):
    live, frames = start(subnet="odd", budget=Budget(max_resolution=8))
    live.edit(codes(1))
    assert live.final(LONG).engine == "odd/openvino"
    same, more = start(subnet="1@8", budget=Budget(max_resolution=8))
    preview = same.edit(codes(2))
    assert np.array_equal(same.final(LONG).image, preview.image)
    assert script.calls == [("1@8", 1), ("odd", 1), ("1@8", 2)]
    assert stages(frames) == [(1, "final", "odd")] and stages(more) == [(1, "final", "1@8")]


def test_without_finalization(start, script, codes):
    live, frames = start(budget=Budget(latency_ms=8))
    live.edit(codes(1), finalize=False)
    with pytest.raises(InputError, match="finalize=False"):
        live.final(LONG)
    live.edit(codes(2)[0])  # one row of codes is one face too
    live.final(LONG)
    assert [frame.id for frame in frames] == [2, 2]


def test_waiting_for_a_final(start, script, codes):
    live, _ = start(budget=Budget(latency_ms=8))
    with pytest.raises(InputError, match="call edit first"):
        live.final()
    script.held.add("1@8-16")
    live.edit(codes(1))
    with pytest.raises(TimeoutError, match="within 0 s"):
        live.final(0)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(live.final, LONG)
        newer = pool.submit(live.edit, codes(2))
        posted(live, 2)
        script.let_go("1@8-16")
        assert newer.result(LONG).id == waiting.result(LONG).id == 2


def test_errors_reach_who_waits_and_the_next_edit_works(start, script, codes):
    live, _ = start(budget=Budget(latency_ms=8))
    script.wrong.add("1@16-32")
    live.edit(codes(1))
    with pytest.raises(BackendError, match="1@16-32 is broken"):
        live.final(LONG)
    script.wrong = {"1@4-8"}
    for wait in (lambda: live.edit(codes(2)), lambda: live.final(LONG)):
        with pytest.raises(BackendError, match="1@4-8 is broken"):
            wait()
    script.wrong.clear()
    live.edit(codes(3))
    assert live.final(LONG).id == 3


def test_a_callback_that_fails_or_calls_back(start, script, codes):
    said = []

    def meddle(frame):
        for method in (lambda: live.edit(codes(1)), live.final):
            try:
                method()
            except InputError as error:
                said.append(str(error))
        raise ValueError("mine")

    live, _ = start(budget=Budget(latency_ms=8), on_image=meddle)
    live.edit(codes(1))
    assert live.final(LONG).stage == "final"
    live.close()
    assert len(said) == 4 and all("on_image, whose thread would wait for itself" in text for text in said)


def test_closing(start, script, codes):
    live, frames = start(budget=Budget(latency_ms=8))
    script.held.add("1@8-16")
    live.edit(codes(1))
    script.wait("1@8-16", 1)
    with ThreadPoolExecutor() as pool:
        pending = [pool.submit(live.edit, codes(2)), pool.submit(live.final, LONG)]
        posted(live, 2)
        closing = pool.submit(live.close)
        for job in pending[1:]:
            with pytest.raises(InputError, match="closed"):
                job.result(LONG)
        assert not closing.done()  # An engine is running.
        script.let_go("1@8-16")
        closing.result(LONG)
        with pytest.raises(InputError, match="closed before the preview"):
            pending[0].result(LONG)
    assert not live._thread.is_alive() and not frames
    live.close()
    with pytest.raises(InputError, match="is closed"):
        live.edit(codes(1))


def test_warming_up_shows_nothing(start, script, codes):
    live, frames = start(budget=Budget(latency_ms=8))
    live.warm_up()
    assert [name for name, _ in script.calls] == ["1@4-8", "1@8-16", "1@16-32"] and not frames


def test_wrong_arguments(start, codes):
    live, _ = start(budget=Budget(latency_ms=8))
    with pytest.raises(InputError, match="2 faces"):
        live.edit(np.zeros((2, 8, 64)))
    with pytest.raises(InputError, match="7 rows"):
        live.edit(np.zeros((1, 7, 64)))
    with pytest.raises(BudgetError, match="nothing fits"):
        start(budget=Budget(latency_ms=0.1))
    live.edit(codes(1))
    assert live.final(LONG).id > 1


def test_edits_with_real_engines(segmented_bundle):
    """Values move the codes as Runtime.edit does; the last image is that of the full network."""
    import anycost
    from anycost.editing.directions import Directions

    runtime = anycost.open(segmented_bundle, threads=1)
    vectors = np.random.RandomState(0).standard_normal((1, 64)).astype(np.float32)
    directions = Directions(("smile",), vectors / np.linalg.norm(vectors))
    runtime.directions = lambda: directions
    codes = runtime.codes(5)
    with runtime.live(budget=Budget(max_resolution=16)) as live:
        preview = live.edit(codes, {"smile": 50})
        moved = runtime.edit(codes, {"smile": 50}, directions=directions)
        final = live.final(LONG)
    expected = runtime.generate(w_plus=moved)[0]
    assert preview.subnet == "1@16" and final.subnet == "1@32" and final.elapsed_ms >= preview.elapsed_ms > 0
    assert np.abs(final.image.astype(int) - expected).max() <= 1
    assert not np.array_equal(expected, runtime.generate(w_plus=codes)[0])
