import pytest
from hypothesis import given
from hypothesis import strategies as st

import anycost
from anycost.errors import BudgetError, BundleError
from anycost.runtime.budget import Budget, parse_distance, parse_latency_ms, parse_memory_mb
from anycost.runtime.choose import choose
from anycost.runtime.profile import Measurement, Profile, store_profile, stored_profile
from anycost.runtime.quality import EngineQuality, FdParity, Interval, Pair, Quality, SubnetQuality
from anycost.runtime.report import HEADER, cells, values


@pytest.fixture
def runtime(tiny_bundle):
    return anycost.open(tiny_bundle)


@pytest.fixture
def profile(runtime):
    """Made-up figures: later sub-networks take twice the time; OpenVINO is faster and takes more memory."""
    engines = {}
    for i, net in enumerate(sorted(runtime.subnets, key=lambda net: -net.distance)):
        for backend, speed, memory in (("onnxruntime", 1.0, 100), ("openvino", 0.5, 200)):
            time = 2**i * speed
            engines[f"{net.name}/{backend}"] = Measurement(
                p50_ms=time * 0.9, p95_ms=time, load_ms=5, memory_mb=memory + 10 * i, runs=10
            )
    return Profile(device="test", threads=1, bundle_sha256=runtime.bundle.manifest_sha256, engines=engines)


def chosen(runtime, profile, **limits) -> str:
    return choose(runtime.bundle, Budget(**limits), profile).engine.name


def test_the_best_quality_that_fits_on_its_fastest_backend(runtime, profile):
    order = [net.name for net in sorted(runtime.subnets, key=lambda net: -net.distance)]
    assert order[-1] == "1@32" and runtime.bundle.subnet("1@32").distance == 0
    assert chosen(runtime, profile) == "1@32/openvino"
    assert chosen(runtime, profile, latency_ms=2.0) == f"{order[2]}/openvino"
    assert chosen(runtime, profile, latency_ms=0.5) == f"{order[0]}/openvino"
    assert chosen(runtime, profile, latency_ms=2.0, memory_mb=150) == f"{order[1]}/onnxruntime"
    assert chosen(runtime, profile, max_resolution=16).startswith("0.25@16")
    assert chosen(runtime, profile, min_resolution=32, latency_ms=4) == "1@32/openvino"


def test_nothing_fits_names_the_nearest(runtime, profile):
    with pytest.raises(BudgetError, match=r"nearest is \S+/openvino, p95 0\.50 ms, 200 MB: p95 0\.50 ms is above 0\.1"):
        chosen(runtime, profile, latency_ms=0.1)
    with pytest.raises(BudgetError, match="memory 100 MB is above 50"):
        chosen(runtime, profile, memory_mb=50)
    with pytest.raises(BudgetError, match="32 px is below 64"):
        chosen(runtime, profile, min_resolution=64)


def test_unmeasured_engines_never_meet_a_limit_of_time(runtime, profile):
    one = Profile(
        **(profile.model_dump() | {"engines": {"0.25@16/onnxruntime": profile.engines["0.25@16/onnxruntime"]}})
    )
    choice = choose(runtime.bundle, Budget(latency_ms=1e6), one)
    assert choice.engine.name == "0.25@16/onnxruntime"
    assert sum(row.misfit == "it was not measured on this device" for row in choice.rows) == 7


def test_only_what_was_asked_for(runtime, profile):
    assert (
        choose(runtime.bundle, Budget(), profile, subnet="odd", backend="onnxruntime").engine.name == "odd/onnxruntime"
    )
    with pytest.raises(BundleError, match=r"0\.25@16"):
        choose(runtime.bundle, Budget(), profile, subnet="2@4096")
    with pytest.raises(Exception, match="unknown"):
        choose(runtime.bundle, Budget(), profile, backend="abacus")


def test_explain_marks_the_chosen_row_and_says_why(runtime, profile):
    store_profile(runtime.bundle, profile.model_copy(update={"threads": 2}))
    text = anycost.open(runtime.bundle.folder, threads=2).explain(Budget(latency_ms=2.0))
    marked = [line for line in text.splitlines() if line.startswith("*")]
    assert len(marked) == 1 and "openvino" in marked[0] and "above 2" in text
    nothing = anycost.open(runtime.bundle.folder, threads=2).explain(Budget(latency_ms=0.01))
    assert not [line for line in nothing.splitlines() if line.startswith("*")] and "nothing fits" in nothing


def test_profiles_are_kept_per_bundle_and_threads(runtime, profile, tmp_path):
    assert stored_profile(runtime.bundle, 1) is None
    path = store_profile(runtime.bundle, profile)
    assert path.is_relative_to(tmp_path)
    assert stored_profile(runtime.bundle, 1) == profile
    assert stored_profile(runtime.bundle, 2) is None
    path.write_text("damaged")
    assert stored_profile(runtime.bundle, 1) is None


@pytest.mark.parametrize(
    "limits",
    [
        {"latency_ms": 0},
        {"latency_ms": -1},
        {"latency_ms": float("nan")},
        {"memory_mb": float("inf")},
        {"min_resolution": 0},
        {"min_resolution": 64, "max_resolution": 32},
    ],
)
def test_budgets_that_make_no_sense(limits):
    with pytest.raises(BudgetError):
        Budget(**limits)


@pytest.mark.parametrize(("text", "value"), [("40ms", 40), ("0.5s", 500), (" 800 us", 0.8), ("12", 12), (".5S", 500)])
def test_parse_latency(text, value):
    assert parse_latency_ms(text) == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("512MB", 512), ("1.5GB", 1500), ("1MiB", 1.048576), ("7", 7)])
def test_parse_memory(text, value):
    assert parse_memory_mb(text) == pytest.approx(value)


@given(st.text(max_size=12))
def test_any_text_is_a_positive_budget_or_refused(text):
    for parse in (parse_latency_ms, parse_memory_mb):
        try:
            assert parse(text) > 0
        except BudgetError as error:
            assert "\n" not in str(error).replace(text, "")


TO_DATA = {"0.25@16": 30.0, "0.5@32": 5.0, "1@32": 10.0, "odd": 20.0}
TO_FULL = {"0.25@16": 0.5, "0.5@32": 4.0, "1@32": 1.0, "odd": 3.0}


class TestMeasuredQuality:
    """0.5@32 is made the best by the distance to data and 0.25@16 by that to the full network's images."""

    def bundle(self, runtime, to_data=TO_DATA, to_full=TO_FULL):
        def interval(value):
            return None if value is None else Interval(value=value, low=value, high=value)

        pair = Pair(psnr_db=30.0, ssim=0.9, distance=0.1)
        subnets = {
            name: SubnetQuality(full=pair, fd_full=interval(value), fd_data=interval(to_data.get(name)))
            for name, value in to_full.items()
        }
        source = runtime.bundle.generator.source_sha256
        quality = Quality(images=9, psi=1, measure="FD-x (y)", distance="d", source_sha256=source, subnets=subnets)
        return runtime.bundle.with_quality(quality)

    def test_the_distance_to_data_comes_first(self, runtime, profile):
        choice = choose(self.bundle(runtime), Budget(), profile)
        assert choice.engine.name == "0.5@32/openvino"
        assert choice.reason.startswith("0.5@32/openvino has the smallest FD-x (y) to data (5) of 8 engines that fit")
        assert {row.subnet.name: row.rank for row in choice.rows} == TO_DATA

    def test_one_without_it_and_the_distance_to_the_full_network_is_taken(self, runtime, profile):
        bundle = self.bundle(runtime, to_data=TO_DATA | {"odd": None})
        choice = choose(bundle, Budget(), profile)
        assert choice.engine.name == "0.25@16/openvino" and "FD-x (y) to the full network (0.5)" in choice.reason
        # Only what is considered has to have it.
        assert "to data" in choose(bundle, Budget(), profile, subnet="1@32").reason

    def test_one_that_was_not_measured_and_it_is_the_distance_of_the_build(self, runtime, profile):
        bundle = self.bundle(runtime, to_full={"0.25@16": 0.5, "0.5@32": 4.0, "1@32": 1.0})
        choice = choose(bundle, Budget(), profile)
        assert (
            choice.engine.name == "1@32/openvino" and "smallest distance to the full network (0.0000)" in choice.reason
        )
        assert {row.quality for row in choice.rows} == {None}

    def test_a_budget_is_kept_all_the_same(self, runtime, profile):
        bundle = self.bundle(runtime)
        fast = choose(bundle, Budget(latency_ms=0.5), profile).engine.name
        assert fast == choose(runtime.bundle, Budget(latency_ms=0.5), profile).engine.name != "0.5@32/openvino"

    def test_an_engine_whose_images_were_measured_to_differ_is_not_taken(self, runtime, profile):
        bundle = self.bundle(runtime)
        (record,) = (engine for engine in bundle.manifest.engines if engine.name == "0.5@32/openvino")
        pair, zero = Pair(psnr_db=30.0, ssim=0.9, distance=0.1), Interval(value=0, low=0, high=0)
        for difference, taken in ((0.5, "0.5@32/openvino"), (2.5, "0.5@32/onnxruntime")):
            parity = FdParity(difference=difference, bound=2.0, passed=difference <= 2)
            engine = EngineQuality(key=record.key, own=pair, full=pair, fd_own=zero, parity=parity)
            measured = bundle.with_quality(bundle.quality.model_copy(update={"engines": {record.name: engine}}))
            choice = choose(measured, Budget(), profile)
            assert choice.engine.name == taken
        (row,) = (row for row in choice.rows if row.engine.name == record.name)
        assert row.misfit == "its images differ too much: 2.5 above 2"

    def test_the_table_shows_what_was_ranked_by(self, runtime, profile):
        at = HEADER.index("quality")
        row = next(r for r in choose(self.bundle(runtime), Budget(), profile).rows if r.chosen)
        assert cells(row)[at] == "FD-x (y) 5"
        assert (values(row)["quality"], values(row)["ranked_by"]) == (5.0, "FD-x (y) to data")
        plain = next(r for r in choose(runtime.bundle, Budget(), profile).rows if r.chosen)
        assert cells(plain)[at] == "-" and values(plain)["quality"] == plain.subnet.distance


class TestMaxDistance:
    def test_it_bounds_what_the_rows_are_ranked_by(self, runtime, profile):
        order = sorted(runtime.subnets, key=lambda net: -net.distance)
        floor = order[-2].distance
        assert chosen(runtime, profile, max_distance=floor) == "1@32/openvino"
        choice = choose(runtime.bundle, Budget(max_distance=floor), profile)
        misfits = [row for row in choice.rows if row.misfit]
        assert {row.subnet.name for row in misfits} == {net.name for net in order[:-2]}
        assert (
            misfits[0].misfit.startswith("distance to the full network 0.") and f"above {floor:g}" in misfits[0].misfit
        )
        measured = TestMeasuredQuality().bundle(runtime)
        assert choose(measured, Budget(max_distance=5), profile).subnet.name == "0.5@32"
        (line,) = {r.misfit for r in choose(measured, Budget(max_distance=5), profile).rows if r.subnet.name == "odd"}
        assert line == "FD-x (y) to data 20 is above 5"

    def test_nothing_fits_names_the_nearest(self, runtime, profile):
        with pytest.raises(BudgetError, match=r"distance <= 0\): the nearest is 1@32/openvino.*p95 \S+ ms is above 1"):
            chosen(runtime, profile, max_distance=0, latency_ms=1)

    def test_text(self):
        assert (parse_distance("25"), parse_distance(" 0.08 "), parse_distance("0")) == (25, 0.08, 0)
        for text in ("-1", "25ms", "", "nan", "1e9"):
            with pytest.raises(BudgetError, match="distance such as 25"):
                parse_distance(text)
        for value in (-0.1, float("nan"), float("inf")):
            with pytest.raises(BudgetError, match="max_distance"):
                Budget(max_distance=value)
        assert str(Budget(max_distance=25)) == "distance <= 25"
