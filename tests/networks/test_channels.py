import pytest

from anycost.networks.channels import Architecture, SubnetError, macs, parameters, parse_subnets
from anycost.networks.stylegan2 import Generator

CONFIG_F = Architecture(1024)


@pytest.mark.parametrize(("ratio", "resolution", "giga"), [(1, 1024, 74.3), (0.5, 512, 18.6), (0.25, 256, 4.6)])
def test_macs_are_those_of_the_paper(ratio, resolution, giga):
    # The figures are published with one decimal.
    assert macs(CONFIG_F.subnet(resolution, ratio)) / 1e9 == pytest.approx(giga, abs=0.05)


def test_the_cap_comes_after_the_ratio():
    # 4096 * 2 * 0.5 = 4096 channels at 4 px, capped to 512; 64 * 2 * 0.5 = 64 at 256 px.
    assert CONFIG_F.subnet(256, 0.5).channels == (512,) * 8 + (256,) * 2 + (128,) * 2 + (64,) * 2


@pytest.mark.parametrize("net", [CONFIG_F.full(), Architecture(64, 0.25, 128).full()])
def test_parameters_count_the_module(net):
    arch = CONFIG_F if net.resolution == 1024 else Architecture(64, 0.25, 128)
    import torch

    with torch.device("meta"):
        module = Generator(arch.resolution, arch.channel_multiplier, arch.channel_max, arch.style_dim)
    counted = sum(p.numel() for name, p in module.named_parameters() if not name.startswith("style."))
    assert parameters(net) == counted


def test_grid_has_sixteen_sorted_by_cost():
    nets = CONFIG_F.grid()
    assert len({net.name for net in nets}) == 16
    assert [macs(net) for net in nets] == sorted(macs(net) for net in nets)
    assert {net.resolution for net in nets} == {128, 256, 512, 1024}


def test_grid_of_a_64_px_generator_starts_at_16():
    assert {net.resolution for net in Architecture(64, 0.25, 256, 256).grid()} == {16, 32, 64}


def test_flexible_lists_may_be_longer_than_the_resolution_needs():
    counts = [512] * 10 + [256, 256, 128, 128, 64, 64, 32, 32]
    net = CONFIG_F.subnet(128, counts, "flexible")
    assert net.channels == tuple(counts[:12])
    assert net.ratio is None


@pytest.mark.parametrize(
    ("resolution", "channels", "said"),
    [
        (2048, 1.0, "2048"),
        (100, 1.0, "100"),
        (64, 0.0, "0"),
        (64, 1.5, "1.5"),
        (64, -0.5, "-0.5"),
        (64, [512] * 3, "3 channel counts"),
        (64, [513] + [512] * 9, "513"),
        (64, [0] + [512] * 9, "0"),
    ],
)
def test_what_the_generator_does_not_contain_is_named(resolution, channels, said):
    with pytest.raises(SubnetError, match=said):
        CONFIG_F.subnet(resolution, channels)


def test_parse_subnets():
    assert [net.name for net in parse_subnets("0.5@512, 1@128", CONFIG_F)] == ["0.5@512", "1@128"]
    assert len(parse_subnets("grid", CONFIG_F)) == 16
    for wrong in ("", ",", "0.5", "x@64", "0.5@64@2", "0.5@7"):
        with pytest.raises(SubnetError):
            parse_subnets(wrong, CONFIG_F)
