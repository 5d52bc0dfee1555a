"""Every kind of checkpoint gives the tensors that PyTorch's own loader gives; what lies beside them is left out."""

import argparse
import collections
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from anycost.errors import CheckpointError
from anycost.weights.formats import read_content

both_forms = pytest.mark.parametrize("zipped", [True, False])


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def adam(module: nn.Module) -> dict:
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def saved(path, content, zipped: bool = True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def assert_same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)
        assert found[name].is_contiguous() and not found[name].requires_grad and type(found[name]) is torch.Tensor


def loaded(path) -> dict:
    return torch.load(path, weights_only=False)


@both_forms
def test_training_checkpoint_of_rosinality(tmp_path, zipped):
    g, d = network(), network()
    content = {
        "g": g.state_dict(),
        "d": d.state_dict(),
        "g_ema": network().state_dict(),
        "g_optim": adam(g),
        "d_optim": adam(d),
        "args": argparse.Namespace(path="a", size=256, r1=10.0, local_rank=None, mixing=(0.9, [1, True]), wandb=False),
        "ada_aug_p": np.float64(0.25),
        "latent_avg": torch.randn(8),
    }
    path = saved(tmp_path / "010000.pt", content, zipped)
    found = read_content(path)
    assert list(found.groups) == ["g", "d", "g_ema", ""] and found.kind == "torch" and found.metadata == {}
    for group in ("g", "d", "g_ema"):
        assert_same(found.groups[group], loaded(path)[group])
    assert_same(found.groups[""], {"latent_avg": content["latent_avg"]})


def test_training_checkpoint_of_gans_n_roses(tmp_path):
    models = ("G_A2B", "G_B2A", "G_A2B_ema", "G_B2A_ema", "D_A", "D_B", "D_L")
    content = {name: network().state_dict() for name in models}
    content |= {"G_optim": adam(network()), "D_optim": adam(network()), "iter": 300_000}
    path = saved(tmp_path / "GNR_checkpoint.pt", content)
    found = read_content(path)
    assert tuple(found.groups) == models
    for name in models:
        assert_same(found.groups[name], loaded(path)[name])


@both_forms
def test_anycost_and_plain_state_dicts(tmp_path, zipped):
    state = network().state_dict()
    assert_same(read_content(saved(tmp_path / "a.pt", {"g_ema": state}, zipped)).groups["g_ema"], state)
    for plain in (state, dict(state), dict(network().named_parameters())):
        found = read_content(saved(tmp_path / "a.pt", plain, zipped))
        assert list(found.groups) == [""]
        assert_same(found.groups[""], {name: tensor.detach() for name, tensor in plain.items()})


def test_the_prefix_of_data_parallel_goes_where_all_names_have_it(tmp_path):
    parallel = nn.DataParallel(network()).state_dict()
    other = {"module.a": torch.ones(1), "b": torch.zeros(1)}
    found = read_content(saved(tmp_path / "a.pt", {"state_dict": parallel, "epoch": 3, "generator": other}))
    assert_same(found.groups["state_dict"], network().state_dict())
    assert_same(found.groups["generator"], other)
    assert_same(read_content(saved(tmp_path / "a.pt", parallel)).groups[""], network().state_dict())
    save_file(parallel, tmp_path / "a.safetensors")
    assert read_content(tmp_path / "a.safetensors").groups[""].keys() == network().state_dict().keys()


def test_safetensors_with_metadata_under_any_name(tmp_path):
    state, path = network().state_dict(), tmp_path / "weights.pkl"
    save_file(state, path, {"credit": "us"})
    found = read_content(path)
    assert found.kind == "safetensors" and found.metadata == {"credit": "us"} and list(found.groups) == [""]
    assert all(torch.equal(found.groups[""][name], tensor) for name, tensor in state.items())


@both_forms
@pytest.mark.parametrize("name", ["a.safetensors", "a.pkl", "a.png", "a"])
def test_the_name_says_nothing(tmp_path, zipped, name):
    state = network().state_dict()
    found = read_content(saved(tmp_path / name, state, zipped))
    assert found.kind == "torch"
    assert_same(found.groups[""], state)


@both_forms
def test_tensors_of_every_type_and_layout(tmp_path, zipped):
    base, image = torch.arange(24.0), torch.randn(2, 3, 4, 5)
    content = {
        "whole": base,
        "part": base[4:10],
        "again": base,
        "table": base.view(4, 6),
        "transposed": base.view(4, 6).t(),
        "column": base.view(4, 6)[:, 2],
        "stepped": base[1::3],
        "last": image.to(memory_format=torch.channels_last),
        "repeated": torch.tensor([2.5]).expand(3, 4),
        "empty": torch.empty(0),
        "empty-of-rank-3": torch.empty(2, 0, 3),
        "scalar": torch.tensor(3.5),
        "scalar-of-many": base[7],
        "half": base.half(),
        "bfloat16": base.bfloat16()[1:4],
        "double": base.double(),
        "long": torch.arange(-3, 3),
        "int": torch.arange(5, dtype=torch.int32),
        "short": torch.arange(5, dtype=torch.int16),
        "char": torch.arange(-2, 3, dtype=torch.int8),
        "byte": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "parameter": nn.Parameter(torch.randn(3)),
    }
    path = saved(tmp_path / "a.pt", content, zipped)
    found = read_content(path).groups[""]
    assert_same(found, {name: tensor.detach() for name, tensor in loaded(path).items()})
    before = path.read_bytes()
    found["double"].zero_()  # it is ours
    assert path.read_bytes() == before and torch.equal(read_content(path).groups[""]["double"], base.double())


@both_forms
def test_networks_that_share_all_their_tensors(tmp_path, zipped):
    """As a training run's first checkpoint, and one saved under three names: more than the file, without a copy."""
    state = network().state_dict()
    content = {group: dict(state) for group in ("g", "g_ema", "G", "D")}
    found = read_content(saved(tmp_path / "a.pt", content, zipped)).groups
    for group in content:
        assert_same(found[group], state)
    assert found["g"]["0.weight"].data_ptr() == found["D"]["0.weight"].data_ptr()


@both_forms
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_harmless_company_in_every_protocol(tmp_path, zipped, protocol):
    company = {
        "device": torch.device("cuda", 1),
        "dtype": torch.bfloat16,
        "layout": torch.strided,
        "size": torch.Size([1, 2]),
        "number": np.float32(1.5),
        "flag": np.bool_(True),
        "array": np.arange(6.0).reshape(2, 3).T,
        "float": np.dtype("float32"),
        "args": argparse.Namespace(),
        "nested": [argparse.Namespace(inner=argparse.Namespace(a={"b": (1, 2.5, None, "c")}))],
        "milestones": collections.Counter([10, 10, 20]),
        "table": collections.defaultdict(dict, {1: {2: 3}}),
        "set": {1.5, "a"},
        "state": {140_234_567_890_123: {"step": 3, "exp_avg": torch.ones(2)}, None: 1, 0.5: 2, True: 3},
        "deeper": {"a": {"b": torch.ones(2)}},
        "large": 1 << 70,
    }
    path, state = tmp_path / "a.pt", network().state_dict()
    torch.save({"g_ema": state, **company}, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    found = read_content(path).groups
    assert list(found) == ["g_ema"]
    assert_same(found["g_ema"], state)


class Options:
    """Of somebody's training script."""


@both_forms
@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (Options(), "test_formats.Options"),
        (network(), "torch.nn.modules.container.Sequential"),
        (torch.ones(2).to_sparse(), "torch.serialization._get_layout|torch._utils._rebuild_sparse_tensor"),
        (torch.ones(2, dtype=torch.complex64), "torch.ComplexFloatStorage"),
        (print, r"(__builtin__|builtins).print"),
    ],
)
def test_names_what_it_refuses(tmp_path, zipped, value, asked):
    path = saved(tmp_path / "a.pt", {"g_ema": network().state_dict(), "extra": value}, zipped)
    with pytest.raises(
        CheckpointError, match=rf"a\.pt asks for ({asked})|a\.pt asks for a persistent object"
    ) as caught:
        read_content(path)
    assert "\n" not in str(caught.value)


def test_state_dicts_pickled_without_pytorch(tmp_path):
    path, state = tmp_path / "a.pt", network().state_dict()
    path.write_bytes(pickle.dumps({"g_ema": state, "latent_avg": torch.ones(3), "step": 4}, 4))
    found = read_content(path)
    assert found.kind == "nvidia pickle" and list(found.groups) == ["g_ema", ""]
    assert_same(found.groups["g_ema"], state)


@both_forms
@pytest.mark.parametrize("content", [{}, {"a": 1}, [torch.ones(1)], torch.ones(1), None, {1: torch.ones(1)}])
def test_refuses_files_without_named_tensors(tmp_path, zipped, content):
    with pytest.raises(CheckpointError, match=r"a\.pt holds"):
        read_content(saved(tmp_path / "a.pt", content, zipped))


@both_forms
@pytest.mark.parametrize("kept", [i / 16 for i in range(1, 16)] + [0.999])
def test_refuses_truncated_files(tmp_path, zipped, kept):
    path = saved(tmp_path / "a.pt", {"g_ema": network().state_dict(), "x": torch.randn(1000)}, zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CheckpointError, match=r"a\.pt .*(truncated|damaged)"):
        read_content(path)
