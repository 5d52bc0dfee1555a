import math
import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_machine import Machine, written_bundle, written_profile

import anycost
from anycost.errors import BudgetError, InputError
from anycost.runtime.budget import Budget
from anycost.runtime.controller import FIRST_WAIT_S, KEPT_SWITCHES, LONGEST_WAIT_S, Controller
from anycost.runtime.estimates import WINDOW, Estimates, weighted_p95
from anycost.runtime.profile import Measurement, Profile, store_profile, stored_profile

TIMES = {f"n{i}/openvino": 5.0 * 2**i for i in range(6)}  # 5 to 160 ms
BUNDLE = written_bundle()
PROFILE = written_profile(TIMES)


def setup(slowdown=lambda at, engine: 1.0, latency_ms=60.0, profile=PROFILE, true=TIMES, **machine):
    made = Machine(true, slowdown, **machine)
    return made, Controller(BUNDLE, profile, Budget(latency_ms=latency_ms), made.clock)


def chosen(controller) -> str:
    return controller.choose().engine.name.partition("/")[0]


class TestWeightedP95:
    def test_one_slow_sample_moves_nothing_and_two_in_succession_move_it_all_the_way(self):
        assert weighted_p95([], 7.0) == 7.0
        assert weighted_p95([50.0] + [1.0] * 63, 1.0) == 1.0
        assert weighted_p95([50.0, 40.0] + [1.0] * 62, 1.0) == 40.0
        assert weighted_p95([50.0, 40.0], 1.0) == 40.0

    def test_fast_samples_are_believed_when_a_window_is_full_of_them(self):
        assert weighted_p95([0.5] * 40, 1.0) == 1.0
        assert weighted_p95([0.5] * WINDOW, 1.0) == 0.5

    @pytest.mark.parametrize("slow", [1, 8, 64])
    def test_a_slow_time_is_forgotten_within_58_samples(self, slow):
        assert weighted_p95([1.0] * 58 + [9.0] * slow, 1.0) == 1.0

    @given(st.lists(st.floats(0.1, 100), max_size=80), st.floats(0.1, 100))
    def test_it_is_one_of_the_samples_or_the_prior(self, samples, prior):
        assert weighted_p95(samples, prior) in {*samples, prior}


class TestEstimates:
    def test_a_slowdown_seen_on_one_engine_counts_for_all(self):
        found = Estimates(BUNDLE, PROFILE, clock=lambda: 0.0)
        assert found.now() == {} and found.slowdown() == 1 and found.p95("n4/openvino") == 80
        for _ in range(2):
            found.observe("n2/openvino", 40)
        assert found.slowdown() == 2 and found.p95("n2/openvino") == 40 and found.p95("n5/openvino") == 320
        assert found.now()["n0/openvino"] == 10 and found.elsewhere("n0/openvino") == 10

    def test_slices_of_time_that_a_small_engine_loses_are_not_multiplied_for_a_large_one(self):
        found = Estimates(BUNDLE, PROFILE, clock=lambda: 0.0)
        for i in range(WINDOW):
            found.observe("n0/openvino", 4 if i % 6 else 24)  # 20 ms lost in one run of six
        assert found.slowdown() == pytest.approx(4.8) and found.p95("n0/openvino") == 24
        assert found.elsewhere("n4/openvino") == pytest.approx(80 + 19) and found.elsewhere("n1/openvino") == 29

    def test_old_samples_give_way_to_four_newer_ones(self):
        now = [0.0]
        found = Estimates(BUNDLE, PROFILE, clock=lambda: now[0])
        for _ in range(64):
            found.observe("n2/openvino", 60)
        now[0] = 100.0
        assert found.slowdown() == 3  # Nothing newer is known.
        for _ in range(4):
            found.observe("n2/openvino", 20)
        assert found.slowdown() == 1

    def test_batches_show_a_slower_machine_but_never_a_faster_one(self):
        found = Estimates(BUNDLE, PROFILE, clock=lambda: 0.0)
        assert found.p95("n2/openvino", 8) == 8 * 20
        for _ in range(WINDOW):
            found.observe("n2/openvino", 20 * (1 + 0.25 * 7), batch=8)  # as on a GPU
        assert found.slowdown() == 1 and found.p95("n2/openvino", 8) == pytest.approx(20 * 2.75, rel=0.02)
        for _ in range(2):
            found.observe("n2/openvino", 3 * 20 * 2.75, batch=8)
        assert found.slowdown() == pytest.approx(3, rel=0.08)

    def test_a_predicted_engine_is_known_after_a_window_and_tells_of_the_others(self):
        found = Estimates(BUNDLE, None, threads=1, clock=lambda: 0.0)
        rough = {name: guess.p95_ms for name, guess in found.predictions.items()}
        for _ in range(WINDOW):
            found.observe("n1/openvino", 5 * rough["n1/openvino"])
        assert found.slowdown() == 1 and found.base("n1/openvino") == pytest.approx(5 * rough["n1/openvino"])
        assert found.base("n4/openvino") == pytest.approx(5 * rough["n4/openvino"])
        assert found.predictions["n4/openvino"].basis == "rough rates and 1 known engines"

    def test_a_wrong_prediction_says_nothing_of_the_machine(self):
        known = written_profile({name: TIMES[name] for name in ("n0/openvino", "n1/openvino", "n2/openvino")})
        found = Estimates(BUNDLE, known, clock=lambda: 0.0)
        for _ in range(WINDOW):
            found.observe("n3/openvino", 100)
        assert found.slowdown() == 1 and found.base("n3/openvino") == 100 and found.p95("n2/openvino") == 20

    def test_what_makes_no_sense_is_refused_and_what_is_not_of_the_generator_passed_over(self):
        found = Estimates(BUNDLE, PROFILE, clock=lambda: 0.0)
        for latency in (0, -1, math.nan, math.inf):
            with pytest.raises(InputError, match="not a positive number"):
                found.observe("n0/openvino", latency)
        with pytest.raises(InputError, match="batch 0"):
            found.observe("n0/openvino", 1, 0)
        found.observe("encoder/openvino", 1e6)
        assert found.count() == 0 and found.slowdown() == 1
        with pytest.raises(InputError, match="profile the bundle"):
            found.p95("encoder/openvino")


class TestController:
    def test_a_busy_machine_steps_down_within_three_requests_and_back_up_in_time(self):
        machine, controller = setup(lambda at, engine: 2.0 if 20 <= at < 60 else 1.0)
        requests = machine.drive(controller, 120)
        down, up = controller.history()
        assert (down.source, down.target, down.down) == ("n3/openvino", "n2/openvino", True)
        assert (up.source, up.target, up.down) == ("n2/openvino", "n3/openvino", False)
        assert "above 60" in down.reason and "times its profile" in down.reason and "within 60" in up.reason
        assert sum(request.latency_ms > 60 for request in requests) <= 4
        assert 20 < down.at < 20.5 and 60 < up.at < 60 + FIRST_WAIT_S + 58 / 20

    def test_nothing_moves_without_a_reason(self):
        for seed in range(3):
            machine, controller = setup(seed=seed)
            machine.drive(controller, 300)
            assert controller.history() == ()

    def test_an_engine_that_just_fits_stays_most_of_the_time_and_comes_back(self):
        machine, controller = setup(latency_ms=41, seed=1)
        requests = machine.drive(controller, 600)
        assert sum(request.engine == "n3/openvino" for request in requests) > 0.8 * len(requests)
        assert sum(request.latency_ms > 41 for request in requests) < 0.05 * len(requests)

    def test_a_slow_request_in_a_hundred_is_what_a_p95_allows(self):
        machine, controller = setup(outliers=0.01, seed=2)
        requests = machine.drive(controller, 600)
        assert sum(request.engine == "n3/openvino" for request in requests) > 0.95 * len(requests)

    def test_an_engine_that_fails_again_and_again_is_tried_ever_later(self):
        # Only the larger ones suffer, so that the smaller ones never show it.
        machine, controller = setup(lambda at, engine: 1.7 if engine[1] > "2" else 1.0)
        requests = machine.drive(controller, 1200)
        tries = [switch.at for switch in controller.history() if not switch.down]
        gaps = [later - earlier for earlier, later in pairwise(tries)]
        assert len(tries) < 12 and all(later > 1.4 * earlier for earlier, later in pairwise(gaps[:6]))
        assert gaps[-1] < LONGEST_WAIT_S + 10
        assert sum(request.latency_ms > 60 for request in requests) < 0.01 * len(requests)

    def test_when_nothing_fits_the_fastest_runs_and_says_so(self):
        machine, controller = setup(lambda at, engine: 20.0 if 10 < at < 30 else 1.0)
        machine.drive(controller, 25)
        choice = controller.choose()
        assert choice.engine.name == "n0/openvino" and not choice.fits and "fastest there is" in choice.reason
        machine.drive(controller, 20)
        assert controller.choose().fits and chosen(controller) == "n3"
        assert len(controller.history()) == 2

    def test_a_new_budget_starts_from_what_others_have_seen(self):
        machine, controller = setup(lambda at, engine: 2.0)
        machine.drive(controller, 5)
        shared = controller.estimates
        assert chosen(Controller(BUNDLE, PROFILE, Budget(latency_ms=90), machine.clock, estimates=shared)) == "n3"
        none = Controller(BUNDLE, PROFILE, Budget(latency_ms=6), machine.clock, estimates=shared).choose()
        assert none.engine.name == "n0/openvino" and not none.fits and "for the moment" in none.reason
        assert chosen(Controller(BUNDLE, PROFILE, Budget(latency_ms=90), machine.clock)) == "n4"

    def test_a_machine_faster_than_its_profile_gets_better_images(self):
        machine, controller = setup(true={name: 0.4 * time for name, time in TIMES.items()})
        machine.drive(controller, 20)
        assert chosen(controller) == "n4" and all(not switch.down for switch in controller.history())

    def test_without_a_profile_it_finds_the_engine_that_fits(self):
        for factor in (0.3, 3.0):
            true = {
                name: factor * guess.p95_ms for name, guess in Estimates(BUNDLE, None, threads=1).predictions.items()
            }
            machine = Machine(true)
            limit = 1.2 * true["n3/openvino"]
            controller = Controller(BUNDLE, None, Budget(latency_ms=limit), machine.clock, threads=1)
            machine.drive(controller, 60)
            assert chosen(controller) == "n3"
            assert controller.choose().predicted

    def test_limits_other_than_time_stay(self):
        machine = Machine(TIMES)
        budget = Budget(latency_ms=60, max_distance=0.35)
        controller = Controller(BUNDLE, PROFILE, budget, machine.clock)
        machine.slowdown = lambda at, engine: 10.0
        requests = machine.drive(controller, 5)
        assert {request.engine for request in requests} <= {"n2/openvino", "n3/openvino"}
        assert not controller.choose().fits
        with pytest.raises(BudgetError, match=r"distance to the full network 0\.1 is above 0\.05"):
            Controller(BUNDLE, PROFILE, Budget(latency_ms=60, max_distance=0.05), machine.clock).choose()
        with pytest.raises(BudgetError, match="nothing fits"):
            setup(latency_ms=1)[1].choose()

    def test_a_budget_without_time_has_nothing_to_follow(self):
        machine = Machine(TIMES, lambda at, engine: 9.0)
        controller = Controller(BUNDLE, PROFILE, Budget(max_distance=0.3), machine.clock)
        machine.drive(controller, 20)
        assert chosen(controller) == "n5" and not controller.history()

    def test_what_is_asked_for_by_name_has_a_state_of_its_own(self):
        _, controller = setup()
        assert controller.choose(subnet="n1").engine.name == "n1/openvino" and chosen(controller) == "n3"
        with pytest.raises(BudgetError, match="nearest is n5/openvino"):
            controller.choose(subnet="n5")

    def test_history_is_bounded_and_the_table_shows_what_is_seen(self):
        machine, controller = setup(lambda at, engine: 3.0 if at % 40 < 5 else 1.0)
        machine.drive(controller, 2000)
        assert len(controller.history()) <= KEPT_SWITCHES
        rows = {row.engine.name: row for row in controller.table()}
        assert all(row.now_ms is not None for row in rows.values())
        assert "p95 now" in rows["n5/openvino"].misfit and rows["n5/openvino"].measured.p95_ms == 160

    def test_it_may_be_asked_from_many_threads(self):
        _, controller = setup()
        problems = []

        def work():
            try:
                for i in range(200):
                    controller.observe(controller.choose().engine.name, 30 + i % 50, 1 + i % 3)
                    controller.table() if i % 50 == 0 else controller.history()
            except Exception as error:
                problems.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not problems and controller.estimates.count() == 800


PIECES = st.lists(
    st.tuples(
        st.sampled_from(["step", "ramp", "burst"]),
        st.floats(1.0, 4.0),  # times slower
        st.floats(15.0, 60.0),  # seconds
    ),
    min_size=1,
    max_size=5,
)


def load(pieces):
    """A slowdown by seconds, made of pieces with quiet between them; and the seconds at which it jumps."""
    quiet, starts, at = 20.0, [], 20.0
    for _, _, length in pieces:
        starts.append(at)
        at += length + quiet

    def slowdown(time, engine):
        for (kind, factor, length), start in zip(pieces, starts, strict=True):
            inside = time - start
            if 0 <= inside < length:
                if kind == "step":
                    return factor
                if kind == "ramp":
                    return 1 + (factor - 1) * (1 - abs(2 * inside / length - 1))
                return factor if inside % 5 < 1 else 1.0
        return 1.0

    return slowdown, starts, at


@given(PIECES, st.floats(25, 150), st.integers(0, 1000), st.sampled_from([0.02, 0.08, 0.2]), st.sampled_from([10, 30]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_budget_holds_under_any_load_without_swinging(pieces, latency_ms, seed, sigma, rate):
    slowdown, _, seconds = load(pieces)
    machine, controller = setup(slowdown, latency_ms, seed=seed, sigma=sigma)
    requests = machine.drive(controller, seconds, rate)
    # The first few of each change (a ramp changes as often as it crosses an engine, a burst every five seconds).
    changes = sum({"step": 2, "ramp": 6, "burst": 2 * length / 5}[kind] for kind, _, length in pieces)
    missed = sum(request.latency_ms > latency_ms for request in requests)
    assert missed <= 0.05 * len(requests) + 5 * changes
    assert len(controller.history()) <= 2 * changes + 2 * math.log2(seconds / FIRST_WAIT_S)
    # Quiet again: what it had at first, within the wait, its pause and what it takes to forget.
    machine.slowdown = lambda at, engine: 1.0
    first = requests[0].engine
    latest = 0.0
    while machine.time < seconds + 4 * LONGEST_WAIT_S and controller.choose().engine.name != first:
        machine.drive(controller, 1, rate)
        latest = machine.time - seconds
    assert controller.choose().engine.name == first, latest


def test_after_one_slowdown_the_better_engine_is_back_within_five_seconds():
    for factor in (1.6, 2.5, 5.0):
        for length in (1, 10, 100):
            machine, controller = setup(lambda at, engine, f=factor, n=length: f if 20 <= at < 20 + n else 1.0)
            machine.drive(controller, 20 + length + 5)
            assert chosen(controller) == "n3" and len(controller.history()) <= 6


def test_the_same_observations_give_the_same_switches():
    def switches():
        machine, controller = setup(lambda at, engine: 1.5 + 0.7 * math.sin(at / 7), seed=4)
        machine.drive(controller, 200)
        return controller.history()

    assert switches() == switches() != ()


class TestRuntime:
    @pytest.fixture
    def runtime(self, tiny_bundle):
        """Of a profile in which the full network just fits into a minute."""
        runtime = anycost.open(tiny_bundle, threads=1)
        engines = {
            engine.name: Measurement(p50_ms=1, p95_ms=1e3 * macs / 1e6, load_ms=1, memory_mb=100, runs=10)
            for net in runtime.subnets
            for macs in [net.macs]
            for engine in runtime.bundle.engines(net.name)
        }
        sha256 = runtime.bundle.manifest_sha256
        profile = Profile(device="test", threads=1, bundle_sha256=sha256, engines=engines)
        store_profile(runtime.bundle, profile)
        assert stored_profile(runtime.bundle, 1) == profile
        return anycost.open(tiny_bundle, threads=1)

    def test_generate_follows_a_budget_and_explain_tells(self, runtime):
        limit = max(found.p95_ms for found in runtime.stored_profile.engines.values()) * 1.2
        budget = Budget(latency_ms=limit)
        images = runtime.generate([0, 1, 2], budget=budget)
        assert images.shape == (3, 32, 32, 3)
        controller = runtime.controller(budget)
        assert runtime.estimates.count() == 3 and controller.choose().subnet.name == "1@32"
        text = runtime.explain(budget)
        assert "3 runs seen" in text and "ago" not in text
        name = controller.choose().engine.name
        for _ in range(3):
            controller.observe(name, 2 * limit)
        assert runtime.generate(0, budget=budget).shape[0] == 1
        (switch,) = controller.history()
        assert (
            switch.source == name
            and f"ago from {name} to {switch.target}: two of the last three" in runtime.explain(budget)
        )
        # Its table says what is seen; the choice by profile alone is as it was.
        assert runtime.choose(budget).subnet.name == "1@32"
        assert runtime.followed(Budget(latency_ms=limit + 1)) is None

    def test_batches_and_named_engines_are_seen_and_a_new_profile_starts_anew(self, runtime):
        runtime.generate([0, 1, 2], batch=2, subnet="0.25@16")
        assert runtime.estimates.count() == 2
        assert "2 runs seen" in runtime.explain() and "-" in runtime.explain()
        runtime._profile = runtime.stored_profile.model_copy()
        assert runtime.estimates.count() == 0 and "runs seen" not in runtime.explain()
