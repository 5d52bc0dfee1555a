import numpy as np
import pytest

import anycost
from anycost.errors import BackendError, InputError
from anycost.runtime import measure, measure_chains
from anycost.runtime.budget import Budget
from anycost.runtime.bundle import open_bundle
from anycost.runtime.profile import ChainMeasurement, Profile, store_profile, stored_profile
from anycost.runtime.segments import chain, chains, explained, overhead, worth


def profile_of(runtime, chains):
    return Profile(device="test", threads=2, bundle_sha256=runtime.bundle.manifest_sha256, engines={}, chains=chains)


def measured(overhead):
    return ChainMeasurement(segments_ms=(0.5, 0.5 + overhead), whole_ms=1.0, runs=10)


@pytest.fixture
def runtime(segmented_bundle):
    return anycost.open(segmented_bundle)


def test_what_leads_to_a_sub_network(runtime, tiny_bundle):
    bundle = runtime.bundle
    assert [link.name for link in chain(bundle, "1@32", "openvino")] == ["1@4-8", "1@8-16", "1@16-32"]
    assert [link.name for link in chain(bundle, "0.5@8", "openvino")] == ["0.5@4-8"]
    assert chain(bundle, "odd", "openvino") == () and chain(bundle, "1@32", "openvino-fp16") == ()
    assert chains(bundle) == ["0.5@32", "1@32"]
    assert chains(open_bundle(tiny_bundle)) == []


def test_each_resolution_as_it_is_reached(runtime):
    codes = runtime.codes([1, 2])
    steps = runtime.steps(codes, subnet="1@32", backend="openvino", segments=True)
    first = next(steps)
    assert (first.subnet, first.engine, first.image.shape) == ("1@8", "1@4-8/openvino", (2, 3, 8, 8))
    assert first.features.shape == (2, 8, 8, 64) and first.features.dtype == np.float32
    rest = list(steps)
    assert [step.subnet for step in rest] == ["1@16", "1@32"] and rest[-1].features is None
    for step in (first, *rest):
        (whole,) = runtime.steps(codes, subnet=step.subnet, backend="openvino", segments=False)
        assert whole.engine == f"{step.subnet}/openvino" and np.abs(whole.image - step.image).max() < 1e-4


def test_going_on_from_what_there_is(runtime, monkeypatch):
    codes = runtime.codes(1)
    options = {"backend": "onnxruntime", "segments": True}
    *_, small = runtime.steps(codes, subnet="1@16", **options)
    ran = []
    original = runtime.segments.run
    monkeypatch.setattr(runtime.segments, "run", lambda link, *more: ran.append(link.name) or original(link, *more))
    (last,) = runtime.steps(codes, subnet="1@32", start=small, **options)
    assert ran == ["1@16-32"] and last.subnet == "1@32"
    # What is there already is not computed at all.
    assert list(runtime.steps(codes, subnet="1@16", start=small, **options)) == [small] and len(ran) == 1
    # Another ratio, another backend or a whole engine's image begin anew.
    assert len(list(runtime.steps(codes, subnet="0.5@32", start=small, **options))) == 3
    assert len(list(runtime.steps(codes, subnet="1@32", start=small, backend="openvino", segments=True))) == 3
    (whole,) = runtime.steps(codes, subnet="1@16", backend="onnxruntime", segments=False)
    assert len(list(runtime.steps(codes, subnet="1@32", start=whole, **options))) == 3
    with pytest.raises(InputError, match="other codes"):
        runtime.steps(codes + 1, subnet="1@32", start=small, **options)
    with pytest.raises(InputError, match="no segments for odd/onnxruntime"):
        runtime.steps(codes, subnet="odd", **options)


def test_they_are_used_where_they_were_measured_to_cost_little(runtime):
    assert len(list(runtime.steps(runtime.codes(1), subnet="1@32", backend="openvino"))) == 1
    runtime._profile = profile_of(runtime, {"1@32/openvino": measured(0.049), "1@16/openvino": measured(0.05)})
    assert len(list(runtime.steps(runtime.codes(1), subnet="1@32", backend="openvino"))) == 3
    assert len(list(runtime.steps(runtime.codes(1), subnet="1@16", backend="openvino"))) == 1
    bundle, profile = runtime.bundle, runtime.stored_profile
    assert overhead(profile, "1@32", "openvino") == pytest.approx(0.049)
    assert overhead(profile, "1@32", "onnxruntime") is None
    assert worth(bundle, profile, "1@32", "openvino") and not worth(bundle, profile, "1@32", "onnxruntime")


def test_explain_says_what_they_cost(runtime, tiny_bundle):
    assert explained(anycost.open(tiny_bundle)) == []
    assert all("not measured here, so not used" in line for line in explained(runtime)) and len(explained(runtime)) == 4
    found = {"1@32/openvino": measured(-0.1), "1@16/openvino": measured(0.2), "0.5@32/openvino": measured(0.3)}
    store_profile(runtime.bundle, profile_of(runtime, found))
    runtime = anycost.open(runtime.bundle.folder, threads=2)
    lines = {line.split()[2]: line for line in explained(runtime)}
    assert lines["1@32/openvino"].endswith(
        "(8, 16, 32 px) against whole engines: 16 px +20.0%, 32 px -10.0%; used to reach 32 px: from 5% on they cost too much"
    )
    assert "32 px +30.0%; not used" in lines["0.5@32/openvino"]
    assert lines["1@32/openvino"] in runtime.explain(Budget())


def test_a_chain_is_measured_beside_the_whole_engines(runtime, monkeypatch):
    monkeypatch.setattr(measure_chains, "_LEAST_SECONDS", 0)
    found = measure_chains.measure_chain(runtime.bundle, "1@32/onnxruntime", 1)
    assert list(found) == ["1@16/onnxruntime", "1@32/onnxruntime"]
    assert [len(chain.segments_ms) for chain in found.values()] == [2, 3]
    whole = found["1@32/onnxruntime"]
    assert whole.runs == 20 and min(whole.segments_ms) > 0
    assert whole.overhead == pytest.approx(sum(whole.segments_ms) / whole.whole_ms - 1)
    with pytest.raises(BackendError, match="no segments for odd/onnxruntime"):
        measure_chains.measure_chain(runtime.bundle, "odd/onnxruntime", 1)


def test_a_profile_measures_chains_in_processes_of_their_own(runtime, monkeypatch):
    """One fails; the engines themselves are made up."""
    asked = []

    def in_own_process(folder, name, threads, *options):
        if not options:
            return '{"p50_ms": 1, "p95_ms": 1, "load_ms": 1, "memory_mb": 1, "runs": 10}'
        asked.append(name)
        if name == "0.5@32/openvino":
            raise BackendError("out of memory")
        return measure._CHAINS.dump_json({name: measured(0.01)}).decode()

    monkeypatch.setattr(measure, "_in_own_process", in_own_process)
    seen = []
    runtime.profile(progress=lambda *at: seen.append(at))
    assert asked == ["0.5@32/onnxruntime", "0.5@32/openvino", "1@32/onnxruntime", "1@32/openvino"]
    assert seen[-1] == ("", 18, 18) and seen[-2][0] == "segments to 1@32/openvino"
    stored = stored_profile(runtime.bundle, runtime.threads)
    assert set(stored.chains) == set(asked) - {"0.5@32/openvino"}
    assert stored.failed == {"segments to 0.5@32/openvino": "out of memory"}
    # What was measured, or failed, is not measured again.
    runtime.profile()
    assert len(asked) == 4
    runtime.profile(refresh=True)
    assert len(asked) == 8


def test_the_measuring_process_prints_a_chain(runtime, monkeypatch, capsys):
    monkeypatch.setattr(measure_chains, "_LEAST_SECONDS", 0)
    arguments = [str(runtime.bundle.folder), "1@32/onnxruntime", "--threads", "1", "--chain"]
    assert measure.main(arguments) == 0
    assert set(measure._CHAINS.validate_json(capsys.readouterr().out)) == {"1@16/onnxruntime", "1@32/onnxruntime"}


def test_a_profile_of_before_has_no_chains(runtime):
    values = profile_of(runtime, {}).model_dump()
    del values["chains"]
    assert Profile.model_validate(values).chains == {}
