import subprocess
import sys

import numpy as np
import pytest
import torch

import anycost
from anycost.errors import BackendError, InputError
from anycost.networks.stylegan2 import mix, truncate
from anycost.runtime import backends, latents


@pytest.fixture
def runtime(tiny_bundle):
    return anycost.open(tiny_bundle)


def reference(checkpoint, w_plus, noise="stored") -> np.ndarray:
    """uint8 images of the full network by the paper's formulation."""
    with torch.no_grad():
        image = checkpoint.generator().synthesis(w_plus, noise)
    return (image.clamp(-1, 1) * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def assert_same(found, expected):
    # Values that fall on a rounding edge may differ by one step of 256.
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found != expected).mean() < 0.01


def test_seeds_are_those_of_stylegans_tools(runtime):
    z = np.stack([np.random.RandomState(seed).standard_normal(64) for seed in (3, 9)])
    images = runtime.generate([3, 9])
    assert images.shape == (2, 32, 32, 3) and images.dtype == np.uint8
    assert np.array_equal(images, runtime.generate(z=z))
    assert np.array_equal(images[1:], runtime.generate(9))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_way_in_agrees_with_pytorch(runtime, tiny_checkpoint, backend):
    generator = tiny_checkpoint.generator()
    z = np.random.RandomState(1).standard_normal((2, 64)).astype(np.float32)
    mean = torch.from_numpy(runtime.mean_style())
    with torch.no_grad():
        w = generator.mapping(torch.from_numpy(z))
        rows = torch.randn(2, 8, 64)
        assert torch.allclose(mean, generator.mean_style())
        pairs = torch.stack([w, w.flip(0)], dim=1)
    options = {"backend": backend, "subnet": "1@32"}
    assert_same(runtime.generate(z=z, **options), reference(tiny_checkpoint, mix(w[:, None], 8)))
    assert_same(runtime.generate(w=w.numpy(), **options), reference(tiny_checkpoint, mix(w[:, None], 8)))
    assert_same(runtime.generate(w_plus=rows.numpy(), **options), reference(tiny_checkpoint, rows))
    truncated = mix(truncate(w[:, None], mean, 0.6), 8)
    assert_same(runtime.generate(z=z, psi=0.6, **options), reference(tiny_checkpoint, truncated))
    crossed = mix(pairs, 8, 3)
    assert_same(runtime.generate(w=pairs.numpy(), inject_index=3, **options), reference(tiny_checkpoint, crossed))


def test_noise_stored_random_none_given(runtime, tiny_checkpoint):
    rows = torch.randn(3, 8, 64)
    full = {"w_plus": rows.numpy(), "subnet": "1@32", "backend": "onnxruntime"}
    random = latents.random_noise(4, 3, 32)
    expected = reference(tiny_checkpoint, rows, [torch.from_numpy(layer) for layer in random])
    assert_same(runtime.generate(noise="random", noise_seed=4, batch=2, **full), expected)
    assert_same(runtime.generate(noise=random, **full), expected)
    assert_same(runtime.generate(noise="none", **full), reference(tiny_checkpoint, rows, "none"))
    assert not np.array_equal(runtime.generate(noise="none", **full), runtime.generate(**full))


def test_batch_changes_nothing(runtime):
    for backend in ("onnxruntime", "openvino"):
        images = [runtime.generate(list(range(5)), backend=backend, batch=batch) for batch in (1, 2, 5, 64)]
        assert all(np.abs(images[0].astype(int) - other).max() <= 1 for other in images[1:])


def test_pil_output(runtime):
    images = runtime.generate([1, 2], output="pil")
    assert [image.size for image in images] == [(32, 32)] * 2
    assert np.array_equal(np.asarray(images[1]), runtime.generate(2)[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "exactly one"),
        ({"seeds": [1], "z": np.zeros((1, 64))}, "seeds and z"),
        ({"seeds": []}, "no seeds"),
        ({"seeds": range(10**9)}, "1000000000 seeds"),
        ({"seeds": [-1]}, "-1"),
        ({"seeds": [2**32]}, "4294967296"),
        ({"seeds": [1.5]}, "1.5"),
        ({"seeds": [True]}, "True"),
        ({"seeds": 1, "psi": 3}, "psi 3"),
        ({"seeds": 1, "psi": float("nan")}, "psi nan"),
        ({"seeds": 1, "batch": 0}, "batch 0"),
        ({"seeds": 1, "batch": 10**9}, "batch"),
        ({"seeds": 1, "output": "jpeg"}, "jpeg"),
        ({"seeds": 1, "noise": "loud"}, "loud"),
        ({"seeds": 1, "noise": [np.zeros((1, 1, 4, 4))]}, "takes 7"),
        ({"seeds": 1, "noise": [np.zeros((1, 1, 5, 5))] * 7}, "noise 0"),
        ({"z": np.zeros((1, 63))}, "63"),
        ({"z": np.zeros((0, 64))}, "0 rows"),
        ({"z": np.full((1, 64), np.nan)}, "NaN"),
        ({"z": np.zeros((1, 64), dtype="U1")}, "<U1"),
        ({"w": np.zeros((1, 5, 64))}, "5 style rows"),
        ({"w": np.zeros((1, 2, 64)), "inject_index": 9}, "inject_index 9"),
        ({"w_plus": np.zeros((1, 7, 64))}, "7 rows"),
    ],
)
def test_bad_input_is_named(runtime, arguments, said):
    with pytest.raises(InputError, match=said):
        runtime.generate(**arguments)


def test_verify_passes_and_finds_a_wrong_reference(runtime, monkeypatch):
    assert all(check.passed and check.parity.psnr_db > 100 for check in runtime.verify())
    original = type(runtime.bundle).tensors

    def shifted(self, relative):
        found = original(self, relative)
        return {name: array + 1e-2 * name.endswith(".whole") for name, array in found.items()}

    monkeypatch.setattr(type(runtime.bundle), "tensors", shifted)
    checks = runtime.verify()
    assert not any(check.passed for check in checks) and "below 80 dB" in checks[0].problem


def test_profile_measures_each_engine_in_a_process(tiny_bundle):
    runtime = anycost.open(tiny_bundle)
    seen = []
    profile = runtime.profile(progress=lambda *at: seen.append(at))
    assert len(profile.engines) == 8 and seen[-1][1:] == (8, 8)
    assert all(0 < m.p50_ms <= m.p95_ms and m.load_ms > 0 and 20 < m.memory_mb < 1000 for m in profile.engines.values())
    assert anycost.open(tiny_bundle).stored_profile == profile
    again = []
    assert anycost.open(tiny_bundle).profile(progress=lambda *at: again.append(at)) == profile and len(again) == 1


WITHOUT = """
import sys
for name in ("torch", "onnx", *sys.argv[2:]):
    sys.modules[name] = None  # importing it fails
import anycost
runtime = anycost.open(sys.argv[1])
assert runtime.generate([0, 1]).any()
checks = runtime.verify()
assert any(check.passed for check in checks)
print(runtime.explain())
"""


@pytest.mark.parametrize("missing", [[], ["openvino"], ["onnxruntime"]])
def test_runs_without_pytorch_from_another_folder(tiny_bundle, tmp_path, missing):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tiny_bundle), *missing],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    if missing == ["onnxruntime"]:
        # Its distribution is still there, so that it is preferred, and the one clear error is what counts.
        assert "BackendError" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_missing_backends(runtime, monkeypatch):
    original = backends.installed
    monkeypatch.setattr(backends, "installed", lambda name: None if name == "onnxruntime" else original(name))
    assert runtime.choose().engine.backend == "openvino"
    checks = runtime.verify()
    assert {check.engine.split("/")[1] for check in checks if check.skipped} == {"onnxruntime"}
    assert not any(check.failed for check in checks) and any(check.passed for check in checks)
    monkeypatch.setattr(backends, "installed", lambda name: None)
    for step in (runtime.choose, runtime.verify, runtime.profile):
        with pytest.raises(BackendError, match="pip install"):
            step()
