import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_machine import written_bundle, written_profile

import anycost
from anycost.errors import BudgetError
from anycost.runtime.budget import Budget
from anycost.runtime.choose import UNKNOWN, choose
from anycost.runtime.predict import fit, predict, rough_ms
from anycost.runtime.report import HEADER, cells, values

MACS = (10**8, 2 * 10**8, 10**9, 3 * 10**9, 8 * 10**9, 10**10)


def true_ms(macs: int, slower: float = 1.0) -> float:
    """Of written_bundle's engines: 4 bytes a parameter, a parameter for 1000 multiply-adds."""
    return slower * (macs * 2e-8 + 0.3)


def profile_of(names, slower=1.0, backend="openvino"):
    return written_profile({f"n{i}/{backend}": true_ms(MACS[i], slower) for i in names})


def test_from_three_measured_engines_the_others_are_exact_where_time_is_linear():
    bundle = written_bundle(macs=MACS)
    found = predict(bundle, profile_of((0, 2, 5)))
    assert set(found) == {"n1/openvino", "n3/openvino", "n4/openvino"}
    for name, prediction in found.items():
        assert prediction.p95_ms == pytest.approx(true_ms(MACS[int(name[1])]), rel=1e-6)
        assert prediction.memory_mb == pytest.approx(100, rel=0.05)
        assert prediction.basis == "3 known engines of openvino"


def test_fewer_give_the_scale_of_rough_rates_and_other_variants_do_so_too():
    bundle = written_bundle(("openvino", "onnxruntime"), MACS)
    one = predict(bundle, profile_of((2,)))
    rough = predict(bundle, None, threads=1)
    scale = true_ms(MACS[2]) / rough["n2/openvino"].p95_ms
    assert len(one) == 11 and len(rough) == 12
    for name, prediction in one.items():
        assert prediction.p95_ms == pytest.approx(scale * rough[name].p95_ms)
        assert prediction.basis == "rough rates and 1 known engines"
    assert {prediction.basis for prediction in rough.values()} == {"rough rates"}
    # Three of one variant are a fit for it, and a scale for the other.
    three = predict(bundle, profile_of((0, 1, 2)))
    assert three["n4/openvino"].basis == "3 known engines of openvino"
    assert three["n4/onnxruntime"].basis == "rough rates and 3 known engines"


def test_rough_times_grow_with_work_and_shrink_with_threads_and_precision():
    bundle = written_bundle(macs=MACS)
    engine = bundle.engines("n5")[0]
    half = engine.model_copy(update={"precision": "bf16"})
    widened = engine.model_copy(update={"precision": "fp16"})
    gpu = engine.model_copy(update={"backend": "tensorrt"})
    assert rough_ms(engine, MACS[5], 1) > rough_ms(engine, MACS[5], 4) > rough_ms(half, MACS[5], 4)
    assert rough_ms(widened, MACS[5], 4) == rough_ms(engine, MACS[5], 4)  # CPUs compute float16 in float32
    assert rough_ms(engine, MACS[0], 1) < rough_ms(engine, MACS[5], 1) > rough_ms(gpu, MACS[5], 1)


def test_an_engine_that_could_not_be_measured_has_no_prediction():
    bundle = written_bundle(macs=MACS)
    profile = written_profile({"n0/openvino": 1.0}, failed={"n5/openvino": "it crashed"})
    assert set(predict(bundle, profile)) == {f"n{i}/openvino" for i in (1, 2, 3, 4)}


def test_times_seen_while_running_count_as_known():
    bundle = written_bundle(macs=MACS)
    times = {f"n{i}/openvino": true_ms(MACS[i]) for i in (0, 1, 5)}
    found = predict(bundle, None, times=times)
    assert found["n3/openvino"].p95_ms == pytest.approx(true_ms(MACS[3]), rel=1e-6)
    assert "n0/openvino" in found  # It was not measured by a profile.


@given(
    st.lists(st.tuples(st.floats(1, 1e4), st.floats(1, 1e4)), min_size=1, max_size=8),
    st.tuples(st.floats(0, 10), st.floats(0, 10), st.floats(0.01, 10)),
)
@settings(max_examples=60, deadline=None)
def test_a_fit_is_not_negative_and_as_good_as_the_truth(sizes, truth):
    features = [(a, b, 1.0) for a, b in sizes]
    times = np.asarray(features) @ np.asarray(truth)
    found = fit(features, times)
    assert (found >= 0).all()
    assert np.asarray(features) @ found == pytest.approx(times, rel=1e-3)


def test_a_fit_of_times_that_fall_with_size_is_a_constant():
    found = fit([(1, 1, 1), (2, 1, 1), (3, 1, 1)], [3.0, 2.0, 1.0])
    assert found[0] == 0 and (found >= 0).all()


def test_predicted_engines_meet_a_budget_when_they_are_asked_for_and_are_marked():
    bundle = written_bundle(macs=MACS)
    profile = profile_of((0, 1, 2))
    budget = Budget(latency_ms=true_ms(MACS[3]) * 1.01, memory_mb=200)
    assert choose(bundle, budget, profile).engine.name == "n2/openvino"
    known = predict(bundle, profile)
    choice = choose(bundle, budget, profile, predictions=known)
    assert choice.engine.name == "n3/openvino" and choice.measured is None and choice.predicted is known["n3/openvino"]
    assert "predicted from 3 known engines of openvino" in choice.reason
    rows = {row.engine.name: row for row in choice.rows}
    assert rows["n4/openvino"].misfit.startswith("p95 predicted 160.30 ms is above")
    line = dict(zip(HEADER, cells(rows["n3/openvino"]), strict=True))
    assert line["p95"] == "~60.30 ms" and line["memory"].startswith("~") and line["note"] == "chosen, predicted"
    assert values(rows["n3/openvino"])["predicted"]["p95_ms"] == pytest.approx(60.3)
    assert "predicted" not in dict(zip(HEADER, cells(rows["n0/openvino"]), strict=True))["note"]
    with pytest.raises(BudgetError, match="nothing fits"):
        choose(bundle, Budget(latency_ms=1e-3), profile, predictions=known)


def test_without_predictions_what_was_not_measured_meets_no_limit():
    rows = choose(written_bundle(macs=MACS), Budget(memory_mb=1e6), profile_of((0,))).rows
    assert [row.misfit for row in rows] == ["", *[UNKNOWN] * 5]


def test_a_runtime_that_may_not_measure_predicts(tiny_bundle, monkeypatch):
    runtime = anycost.open(tiny_bundle)
    monkeypatch.setattr(type(runtime), "profile", lambda *a, **k: pytest.fail("it measured"))
    choice = runtime.choose(Budget(latency_ms=1e4), measure=False)
    assert choice.predicted and choice.subnet.name == "1@32" and runtime.stored_profile is None
    assert "predicted" in runtime.explain(Budget(latency_ms=1e4), measure=False)
    # Without a limit of time the backends go by preference, as ever; the table shows predictions all the same.
    assert runtime.choose().reason.endswith("no profile, so the preferred backend")
    assert all(row.predicted for row in runtime.choose().rows)
