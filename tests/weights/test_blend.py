import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from anycost.errors import CheckpointError, InputError
from anycost.networks.channels import Architecture
from anycost.networks.stylegan2 import Generator
from anycost.runtime.latents import as_images
from anycost.weights.blend import blend, shares, swap_points
from anycost.weights.blend_sheet import cell_side, sheet
from anycost.weights.checkpoint import Checkpoint, read
from anycost.weights.random_init import SHAPES, random_checkpoint
from anycost.weights.save import save

ARCH = SHAPES["tiny"]

# The modules of a 32 px generator, one line for each (resolution, level): written by hand, and not from Architecture.
TABLE = {
    (4, 0): ["input."],
    (4, 1): ["conv1.", "to_rgb1.", "noises.noise_0"],
    (8, 0): ["convs.0.", "noises.noise_1"],
    (8, 1): ["convs.1.", "to_rgbs.0.", "noises.noise_2"],
    (16, 0): ["convs.2.", "noises.noise_3"],
    (16, 1): ["convs.3.", "to_rgbs.1.", "noises.noise_4"],
    (32, 0): ["convs.4.", "noises.noise_5"],
    (32, 1): ["convs.5.", "to_rgbs.2.", "noises.noise_6"],
}
POINTS = list(TABLE)


@pytest.fixture(scope="module")
def base():
    found = random_checkpoint("tiny", 0)
    return dataclasses.replace(found, mean_style=torch.full((1, 64), 0.25), metadata={"credit": "Made by one"})


@pytest.fixture(scope="module")
def transfer():
    return dataclasses.replace(random_checkpoint("tiny", 1), metadata={"credit": "Made by two"})


def cast(checkpoint: Checkpoint, dtype: torch.dtype) -> Checkpoint:
    return dataclasses.replace(checkpoint, tensors={k: v.to(dtype) for k, v in checkpoint.tensors.items()})


def point_of(name: str) -> tuple[int, int] | None:
    return next((point for point, heads in TABLE.items() if any(name.startswith(head) for head in heads)), None)


def small(n_mlp: int = 2, **shape) -> Checkpoint:
    arch = Architecture(**{"resolution": 8, "channel_multiplier": 0.002, "style_dim": 4, "n_mlp": n_mlp} | shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Generator(arch.resolution, arch.channel_multiplier, arch.channel_max, arch.style_dim, arch.n_mlp)
    return Checkpoint(network.state_dict(), arch, f"{arch.resolution}.pt", "0" * 64)


def test_points_are_in_the_order_of_the_layers():
    assert swap_points(ARCH) == POINTS


@pytest.mark.parametrize("swap", POINTS)
def test_hard_swap_copies_bit_by_bit(base, transfer, swap):
    found = blend(base, transfer, *swap)
    assert set(found.tensors) == set(base.tensors)
    for name, tensor in found.tensors.items():
        point = point_of(name)
        assert (point is None) == name.startswith("style.")
        source = transfer if point is not None and point >= swap else base
        assert tensor.dtype == torch.float32
        assert tensor.numpy().tobytes() == source.tensors[name].numpy().tobytes(), name
    assert torch.equal(found.mean_style, base.mean_style)


@pytest.mark.parametrize(("resolution", "multiplier"), [(8, 0.002), (64, 0.002), (1024, 0.0625)])
def test_shares_name_every_tensor(resolution, multiplier):
    arch = Architecture(resolution, multiplier, 512, 4, 2)
    with torch.device("meta"):
        names = set(Generator(resolution, multiplier, 512, 4, 2).state_dict())
    before = dict.fromkeys(names, 2.0)
    for point in swap_points(arch):
        found = shares(arch, *point)
        assert set(found) == names and set(found.values()) <= {0.0, 1.0}
        assert all(found[name] <= before[name] for name in names)
        assert point == (4, 0) or sum(found.values()) < sum(before.values())
        before = found


def by_hand(low: Generator, high: Generator, swap: tuple[int, int], w: torch.Tensor) -> torch.Tensor:
    """Two generators' own modules run one after the other: features and image go from the first to the second."""
    x = (low if swap > (4, 0) else high).input.input
    image = None
    for count in range(7):
        point = POINTS[count + 1]
        network = low if point < swap else high
        conv = network.conv1 if count == 0 else network.convs[count - 1]
        noise = network.noises.get_buffer(f"noise_{count}")
        x = conv(x.expand(w.shape[0], -1, -1, -1), w, noise, conv.conv.weight.shape[1])
        if point[1] == 1:
            rgb = network.to_rgb1 if count == 0 else network.to_rgbs[count // 2 - 1]
            image = rgb(x, w, image)
    return image


@pytest.mark.parametrize("swap", POINTS)
def test_images_are_those_of_two_networks_run_in_turn(base, transfer, swap):
    low, high = base.generator(), transfer.generator()
    blended = blend(base, transfer, *swap).generator()
    z = torch.randn(2, 64, generator=torch.Generator().manual_seed(3))
    w = low.mapping(z)
    assert torch.equal(blended.mapping(z), w)
    found = blended(z)
    assert torch.allclose(found, by_hand(low, high, swap, w), atol=1e-5, rtol=0)
    if swap == (4, 0):
        assert torch.equal(found, high(w, input_is_style=True))


def ramp_of(swap: tuple[int, int], ramp: float) -> list[float]:
    """Shares by position; every tensor of one layer has the same."""
    found = shares(ARCH, *swap, ramp)
    assert all(found[name] == 0 for name in found if name.startswith("style."))
    by_point = {point: {found[name] for name in found if point_of(name) == point} for point in POINTS}
    assert all(len(values) == 1 for values in by_point.values())
    return [values.pop() for values in by_point.values()]


def test_ramp_has_the_documented_values():
    assert ramp_of((16, 0), 0) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert ramp_of((16, 0), 1) == [0, 0, 0, 0.25, 0.75, 1, 1, 1]
    assert ramp_of((16, 0), 2) == pytest.approx([0, 0, 0, 1 / 3, 2 / 3, 1, 1, 1], abs=1e-15)
    assert ramp_of((16, 0), 4) == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1], abs=1e-15)
    assert ramp_of((32, 1), 2) == pytest.approx([0] * 6 + [1 / 3, 2 / 3], abs=1e-15)


@pytest.mark.parametrize("ramp", [0, 0.5, 1, 2, 3, 8, 1e9])
def test_ramp_rises_and_is_symmetric(ramp):
    for swap in POINTS:
        found = ramp_of(swap, ramp)
        assert found == sorted(found) and min(found) >= 0 and max(found) <= 1
    middle = ramp_of((16, 0), ramp)
    assert [1 - share for share in reversed(middle)] == pytest.approx(middle, abs=1e-12)
    if ramp == 1e9:
        assert middle == pytest.approx([0.5] * 8, abs=1e-8)


def test_mixtures_are_weighted_means(base, transfer):
    found = blend(base, transfer, 16, 0, 3).tensors
    for name, share in shares(ARCH, 16, 0, 3).items():
        wanted = (1 - share) * base.tensors[name].double() + share * transfer.tensors[name].double()
        assert torch.allclose(found[name].double(), wanted, atol=1e-5, rtol=1e-6), name


@pytest.mark.parametrize("ramp", [0, 3])
def test_a_network_blended_with_itself_is_itself(base, ramp):
    for checkpoint in (base, cast(base, torch.float16), cast(base, torch.bfloat16), cast(base, torch.float64)):
        found = blend(checkpoint, checkpoint, 16, 1, ramp)
        assert all(torch.equal(found.tensors[name], tensor) for name, tensor in checkpoint.tensors.items())
        assert all(found.tensors[name].dtype == tensor.dtype for name, tensor in checkpoint.tensors.items())


@pytest.mark.parametrize("ramp", [0, 2.5])
def test_the_other_way_round_is_the_complement(base, transfer, ramp):
    one, other = blend(base, transfer, 16, 1, ramp).tensors, blend(transfer, base, 16, 1, ramp).tensors
    for name in one:
        both = base.tensors[name] + transfer.tensors[name]
        assert torch.allclose(one[name] + other[name], both, atol=1e-3 if "style" in name else 1e-5), name


def test_mixed_float_types_take_the_bases(base, transfer):
    half, bfloat = cast(base, torch.float16), cast(transfer, torch.bfloat16)
    found = blend(half, bfloat, 16, 0, 2).tensors
    for name, share in shares(ARCH, 16, 0, 2).items():
        low, high = half.tensors[name].float(), bfloat.tensors[name].float()
        wanted = low if share == 0 else high if share == 1 else low + share * (high - low)
        assert found[name].dtype == torch.float16
        assert torch.allclose(found[name].float(), wanted, rtol=2e-3, atol=1e-4), name
    huge = dataclasses.replace(transfer, tensors=transfer.tensors | {"to_rgbs.2.bias": torch.full((1, 3, 1, 1), 1e6)})
    with pytest.raises(CheckpointError, match=r"random tiny, seed 1: tensor to_rgbs\.2\.bias .* float16"):
        blend(half, huge, 16, 0)


@pytest.mark.parametrize("ramp", [0, 2])
def test_is_an_ordinary_checkpoint(tmp_path, base, transfer, ramp):
    made = blend(base, transfer, 16, 1, ramp)
    save(tmp_path / "a.safetensors", made.tensors | {"mean_style": made.mean_style}, made.metadata)
    found = read(tmp_path / "a.safetensors")
    assert found.arch == made.arch and made.metadata.items() <= found.metadata.items()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in made.tensors.items())
    assert torch.equal(found.mean_style, base.mean_style)
    notes = found.metadata
    assert notes["credit"] == "Made by one; Made by two"
    assert (notes["blend_base"], notes["blend_base_sha256"]) == (base.source, base.sha256)
    assert (notes["blend_transfer"], notes["blend_transfer_sha256"]) == (transfer.source, transfer.sha256)
    assert (notes["blend_swap_resolution"], notes["blend_level"], notes["blend_ramp"]) == ("16", "1", str(ramp))


def test_hash_is_of_the_content(base, transfer):
    first = blend(base, transfer, 16, 1)
    assert re.fullmatch("[0-9a-f]{64}", first.sha256)
    assert blend(base, dataclasses.replace(transfer, source="renamed"), 16, 1).sha256 == first.sha256
    others = [
        blend(base, transfer, 16, 0),
        blend(base, transfer, 16, 1, 2),
        blend(transfer, base, 16, 1),
        blend(dataclasses.replace(base, mean_style=None), transfer, 16, 1),
        blend(cast(base, torch.bfloat16), transfer, 16, 1),
    ]
    assert len({first.sha256, *(other.sha256 for other in others)}) == 6


def test_fir_kernels_may_be_absent(base, transfer):
    bare = {name: tensor for name, tensor in base.tensors.items() if not name.endswith(".kernel")}
    found = blend(dataclasses.replace(base, tensors=bare), transfer, 16, 1)
    assert set(found.tensors) == set(bare)
    z = torch.ones(1, 64)
    assert torch.equal(found.generator()(z), blend(base, transfer, 16, 1).generator()(z))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"resolution": 16, "style_dim": 8}, "resolution is 8 in the first and 16 in the second"),
        ({"style_dim": 8, "n_mlp": 3}, "style_dim is 4 in the first and 8"),
        ({"n_mlp": 3}, "n_mlp is 2 in the first and 3"),
        ({"channel_multiplier": 0.003}, "channels at 4 px is 8 in the first and 12"),
    ],
)
def test_different_shapes_are_refused(shape, words):
    with pytest.raises(CheckpointError, match=words):
        blend(small(), small(**shape), 8, 0)
    with pytest.raises(CheckpointError, match=words):
        sheet(small(), small(**shape), [0], 1.0)


def test_multipliers_of_the_same_widths_are_one_shape():
    one, other = small(channel_multiplier=2, channel_max=8), small(channel_multiplier=4, channel_max=8)
    assert blend(one, other, 8, 1).arch == one.arch


@pytest.mark.parametrize("arguments", [(64, 0), (12, 0), (0, 1), (16, 2), (16, -1), (16, 0.5), (math.nan, 0)])
def test_wrong_swap_points_are_refused(base, transfer, arguments):
    with pytest.raises(InputError, match="is not"):
        blend(base, transfer, *arguments)


@pytest.mark.parametrize("ramp", [-1, -1e-9, math.nan, math.inf])
def test_wrong_ramps_are_refused(base, transfer, ramp):
    with pytest.raises(InputError, match="ramp"):
        blend(base, transfer, 16, 0, ramp)
    with pytest.raises(InputError, match="ramp"):
        sheet(base, transfer, [0], 1.0, ramp)


def row(picture: np.ndarray, index: int, columns: int) -> np.ndarray:
    """One row without its label, at the 32 px of the network."""
    side = cell_side(32)
    band = picture[index * side : (index + 1) * side, -columns * side :]
    return band[:: side // 32, :: side // 32].reshape(32, columns, 32, 3).swapaxes(0, 1)


def test_sheet_has_every_swap_point_between_the_two(base, transfer):
    seeds, psi = [5, 0, 7], 0.6
    picture = sheet(base, transfer, seeds, psi)
    side = cell_side(32)
    assert picture.dtype == np.uint8 and picture.shape[0] == 10 * side and picture.shape[2] == 3
    assert 3 * side + 60 < picture.shape[1] < 3 * side + 200
    z = torch.from_numpy(np.stack([np.random.RandomState(seed).standard_normal(64) for seed in seeds])).float()
    for index, pure in [(0, base), (9, transfer)]:
        network = pure.generator()
        wanted = network(z, truncation=psi, truncation_style=pure.mean_style)
        found = row(picture, index, 3).astype(int)
        assert np.abs(found - as_images(wanted.numpy()).astype(int)).max() <= 1
    middle = blend(base, transfer, 8, 1).generator()(z, truncation=psi, truncation_style=base.mean_style)
    assert np.abs(row(picture, 4, 3).astype(int) - as_images(middle.numpy()).astype(int)).max() <= 1
    assert (picture[:, : -3 * side].reshape(10, -1).min(1) < 100).all(), "every row has a label"


def test_sheet_shows_large_images_smaller(monkeypatch):
    assert [cell_side(side) for side in (1024, 512, 256, 128, 64, 32, 8)] == [256, 256, 256, 128, 64, 64, 64]
    monkeypatch.setattr("anycost.weights.blend_sheet.LARGEST_CELL", 32)
    one, other = (small(resolution=64, channel_max=4) for _ in range(2))
    picture = sheet(one, other, [0], 1.0)
    assert picture.shape[0] == 12 * 32
    image = one.generator()(torch.from_numpy(np.random.RandomState(0).standard_normal((1, 4))).float())
    wanted = as_images(image.clamp(-1, 1).reshape(1, 3, 32, 2, 32, 2).mean((3, 5)).numpy())[0]
    assert np.abs(picture[:32, -32:].astype(int) - wanted.astype(int)).max() <= 1


def test_sheet_refuses_more_than_memory_holds(base, transfer):
    with pytest.raises(InputError, match="give fewer"):
        sheet(base, transfer, list(range(9000)), 1.0)
