import json
import os
import pickle
import struct
import time
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_networks import OTHERS

from anycost.errors import CheckpointError
from anycost.networks.channels import Architecture
from anycost.networks.stylegan2 import Generator
from anycost.weights.checkpoint import read, read_any
from anycost.weights.random_init import random_checkpoint, random_network
from anycost.weights.save import save


@pytest.fixture(scope="module")
def tensors():
    return random_checkpoint("tiny").tensors


def state(arch: Architecture) -> dict[str, torch.Tensor]:
    return Generator(
        arch.resolution, arch.channel_multiplier, arch.channel_max, arch.style_dim, arch.n_mlp
    ).state_dict()


def refusal(path) -> str:
    """The one-line error; reading must be refused, and quickly."""
    started = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert time.monotonic() - started < 1
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_reads_anycost_pt_by_content(tmp_path, tensors, wrapped, legacy):
    path = tmp_path / "weights.bin"
    torch.save({"g_ema": tensors} if wrapped else tensors, path, _use_new_zipfile_serialization=not legacy)
    found = read(path)
    assert found.arch == Architecture(32, 0.0625, 64, 64, 4)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    assert found.source == "weights.bin" and len(found.sha256) == 64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_reads_safetensors_in_its_own_type(tmp_path, tensors, dtype):
    path = tmp_path / "weights.pt"
    save(
        path,
        {name: tensor.to(dtype) for name, tensor in tensors.items()} | {"mean_style": torch.ones(1, 64)},
        {"credit": "us"},
    )
    found = read(path)
    assert found.tensors["conv1.conv.weight"].dtype == dtype
    assert found.metadata["credit"] == "us"
    assert torch.equal(found.mean_style, torch.ones(1, 64))
    assert "mean_style" not in found.tensors
    found.generator().synthesis(torch.zeros(1, 8, 64))


@pytest.mark.parametrize(
    "arch",
    [
        Architecture(8, 0.0625, 32, 16, 2),
        Architecture(32, 2.0, 512, 32, 3),
        Architecture(64, 0.25, 128, 24, 8),
        Architecture(128, 1.0, 512, 40, 8),
        Architecture(64, 0.1875, 256, 48, 8),
    ],
)
def test_infers_the_architecture_from_shapes(tmp_path, arch):
    path = tmp_path / "a.safetensors"
    save(path, state(arch), {})
    found = read(path).arch
    assert found.full().channels == arch.full().channels
    assert (found.resolution, found.style_dim, found.n_mlp) == (arch.resolution, arch.style_dim, arch.n_mlp)
    # Where a layer is below the cap there is only one multiplier, and sub-networks agree too.
    assert found.grid() == arch.grid()


def test_metadata_tells_what_shapes_cannot(tmp_path):
    arch = Architecture(16, 1.5, 64, 16, 2)  # every layer at the cap
    path = tmp_path / "a.safetensors"
    save(path, state(arch), {})
    assert read(path).arch.channel_multiplier == 2
    save(path, state(arch), {"arguments": '{"channel_multiplier": 1.5, "channel_max": 64}'})
    assert read(path).arch == arch
    save(path, state(arch), {"arguments": '{"channel_multiplier": "nonsense", "channel_max": -3}'})
    assert read(path).arch.channel_multiplier == 2


def test_names_the_first_missing_unexpected_and_misshapen_tensor(tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    save_file({k: v for k, v in tensors.items() if k != "convs.2.activate.bias"}, path)
    assert "convs.2.activate.bias" in refusal(path) and "missing" in refusal(path)
    save_file(tensors | {"convs.9.extra": torch.zeros(3)}, path)
    assert "convs.9.extra" in refusal(path) and "unexpected" in refusal(path)
    save_file(tensors | {"to_rgb1.bias": torch.zeros(1, 4, 1, 1)}, path)
    message = refusal(path)
    assert "to_rgb1.bias" in message and "[1, 4, 1, 1]" in message and "[1, 3, 1, 1]" in message
    save_file({"fc.weight": torch.zeros(3, 3)}, path)
    assert "no network that is known" in refusal(path) and "fc.weight" in refusal(path)


def test_refuses_values_that_no_generator_has(tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    broken = tensors["conv1.conv.weight"].clone()
    broken.view(-1)[:5] = float("nan")
    save_file(tensors | {"conv1.conv.weight": broken}, path)
    assert "conv1.conv.weight" in refusal(path) and "5 NaN" in refusal(path)
    save_file(tensors | {"style.1.bias": torch.zeros(64, dtype=torch.int32)}, path)
    assert "style.1.bias" in refusal(path) and "int32" in refusal(path)
    save_file(tensors | {"to_rgbs.0.upsample.kernel": torch.ones(4, 4)}, path)
    assert "to_rgbs.0.upsample.kernel" in refusal(path)
    save_file(tensors | {"mean_style": torch.ones(1, 3)}, path)
    assert "mean_style" in refusal(path)


def test_fir_kernels_may_be_left_out(tmp_path, tensors):
    path = tmp_path / "a.safetensors"
    save_file({k: v for k, v in tensors.items() if not k.endswith("kernel")}, path)
    read(path).generator().synthesis(torch.zeros(1, 8, 64))


def test_refuses_what_is_no_checkpoint(tmp_path, tensors):
    for name, content in (
        ("empty", b""),
        ("text", b"hello, world: this is a text"),
        ("png", b"\x89PNG\r\n\x1a\n" + bytes(64)),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        refusal(path)
    refusal(tmp_path / "absent.pt")
    refusal(tmp_path)
    for name, value in (("list", [1, 2]), ("nested", {"g_ema": {"a": {"b": torch.ones(1)}}}), ("number", {"a": 1.5})):
        path = tmp_path / name
        torch.save(value, path)
        refusal(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
def test_refuses_truncated_files(tmp_path, tensors, kind, kept):
    path = tmp_path / "a"
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
    os.truncate(path, int(path.stat().st_size * kept))
    refusal(path)


class Runs:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare"])
def test_never_runs_a_pickle(tmp_path, kind):
    path, target = tmp_path / "a.pt", tmp_path / "ran"
    if kind == "bare":
        path.write_bytes(pickle.dumps({"g_ema": Runs(target)}))
    else:
        torch.save({"g_ema": Runs(target)}, path, _use_new_zipfile_serialization=kind == "zip")
    message = refusal(path)
    assert not target.exists()
    assert "posix.system" in message or (kind == "bare" and "other than tensors" in message)


def test_refuses_archives_that_unpack_to_more(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(100 << 20))
    assert "unpacks" in refusal(path)


def test_refuses_tensors_larger_than_their_file(tmp_path):
    path = tmp_path / "wide.pt"
    torch.save({"style.1.weight": torch.zeros(1).expand(1 << 40)}, path)
    assert "larger than the file" in refusal(path)


def test_refuses_a_header_longer_than_the_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{" + json.dumps({}).encode())
    assert "header" in refusal(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    zipped=st.booleans(), damage=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8)
)
def test_any_damage_is_refused_in_one_line(tmp_path, tensors, zipped, damage):
    path = tmp_path / "a"
    small = dict(list(tensors.items())[:4])  # never a whole generator
    if zipped:
        torch.save(small, path)
    else:
        save_file(small, path)
    content = bytearray(path.read_bytes())
    for position, value in damage:
        content[position % len(content)] = value
    path.write_bytes(bytes(content))
    refusal(path)


def other(path, kind, **changes):
    """A file of another kind of network with some of its tensors changed or added."""
    network = random_network(kind, 0, **OTHERS.get(kind, {}))
    torch.save({"state_dict": network.tensors | changes}, path)
    return path


def test_running_statistics_of_instance_norms_are_left_out(tmp_path):
    """The published CycleGAN files hold them, and nothing has a use for them."""
    extra = {f"model.2.{end}": torch.ones(8) for end in ("running_mean", "running_var")}
    extra |= {"model.10.conv_block.2.running_mean": torch.ones(32), "model.2.num_batches_tracked": torch.tensor(3)}
    found = read_any(other(tmp_path / "g.pth", "cyclegan", **extra))
    assert found.network == "cyclegan" and not any("running" in name for name in found.tensors)
    with pytest.raises(CheckpointError, match="unexpected"):
        read_any(other(tmp_path / "g.pth", "cyclegan", **{"model.99.running_mean": torch.ones(8)}))


def test_untrained_blocks_of_a_stylegan1_are_left_out(tmp_path):
    network = random_network("stylegan1", 0, **OTHERS["stylegan1"] | {"blocks": 6})
    fresh = ("progression.5.noise", "progression.5.conv2.conv.bias", "to_rgb.5.conv.bias")
    zeros = {name: torch.zeros_like(x) for name, x in network.tensors.items() if any(part in name for part in fresh)}
    assert len(zeros) == 4
    assert read_any(other(tmp_path / "g.pt", "stylegan1")).arguments["blocks"] == 5
    torch.save({"g_running": network.tensors | zeros}, tmp_path / "g.pt")
    assert read_any(tmp_path / "g.pt").arguments["blocks"] == 5
    torch.save({"g_running": network.tensors}, tmp_path / "g.pt")
    assert read_any(tmp_path / "g.pt").arguments["blocks"] == 6


@pytest.mark.parametrize(
    "text", ['{"channel_multiplier": 1e308}', '{"channel_max": ' + "1" * 400 + "}", "[" * 100_000, "{"]
)
def test_metadata_that_say_nonsense_are_not_believed(tmp_path, text):
    save(
        tmp_path / "a.safetensors",
        state(Architecture(8, 0.0625, 64, 64, 2)),
        {"network": "stylegan2", "arguments": text},
    )
    assert read(tmp_path / "a.safetensors").arch.resolution == 8
    tagged = random_network("mlp-gan", 0, nz=8)
    save(tmp_path / "b.safetensors", tagged.tensors, {"labels": text})
    assert read_any(tmp_path / "b.safetensors").labels == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.0.bias": torch.zeros(256).to(torch.float8_e4m3fn)}, "float8_e4m3fn"),
        ({"model.0.bias": torch.full((256,), 1e300, dtype=torch.float64)}, "256 NaN or infinite"),
        ({"model.2.running_var": -torch.ones(256)}, "negative variances"),
        ({"model.0.weight": torch.zeros(256, 0)}, "is empty"),
    ],
)
def test_values_that_no_network_can_use_are_told(tmp_path, changes, said):
    network = random_network("mlp-gan", 0, nz=8)
    save_file({name: x.contiguous() for name, x in (network.tensors | changes).items()}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=said):
        read_any(tmp_path / "a.safetensors")


def test_networks_that_only_look_alike_are_not_taken_for_others(tmp_path):
    trunk = random_network("attributes").tensors
    for outputs in (1000, 10):
        fc = {"fc.weight": torch.ones(outputs, 2048), "fc.bias": torch.ones(outputs)}
        torch.save(trunk | fc, tmp_path / "imagenet.pth")
        with pytest.raises(CheckpointError, match="no network that is known"):
            read_any(tmp_path / "imagenet.pth")
    named = trunk | {"fc.weight": torch.ones(10, 2048), "fc.bias": torch.ones(10)}
    save(tmp_path / "own.safetensors", named, {"network": "attributes", "labels": '["a", "b", "c", "d", "e"]'})
    assert read_any(tmp_path / "own.safetensors").labels == ("a", "b", "c", "d", "e")
