"""The floors of the fused kernels: ``python -m benchmarks.kernels``."""

import pytest
import torch

from anycost.benchmarks import kernels
from anycost.benchmarks.kernel_cases import collect
from anycost.benchmarks.kernel_floors import H200, RTX_4090, measured
from anycost.benchmarks.kernel_work import OPERATORS, layers_of, operator_of, padding_of, work_of
from anycost.kernels.call import Slot
from anycost.kernels.modulated_conv.launch import units_of
from anycost.kernels.modulated_conv.work import conv3x3_work, up_floors_us
from anycost.kernels.upfirdn.launch import upfirdn2d_call
from anycost.kernels.work import Work
from anycost.networks.channels import Architecture, parse_subnets

ARCH = Architecture(1024)


@pytest.fixture(scope="module")
def cases():
    return collect(ARCH, parse_subnets("0.5@512,1@1024", ARCH), "fp16")


def test_every_operator_and_every_choice_is_there_once(cases):
    assert {one.operator for one in cases.problems} == {
        *OPERATORS.values(),
        "conv3x3",
        "conv3x3 up",
        "conv_transpose3x3",
        "layer",
    }
    keys = {one.key: one for one in cases.problems}
    assert len(keys) == len(cases.problems)
    assert all(way.candidate in keys[way.problem].candidates for layer in cases.layers for way in layer.ways)
    shared = next(one for one in cases.problems if one.title == "32x32x512 -> 512, demodulation")
    assert set(shared.used) == {"0.5@512 convs.5", "1@1024 convs.5"}, "a shape that both have is one problem"
    last = next(layer for layer in cases.layers if (layer.subnet, layer.name) == ("1@1024", "convs.14"))
    assert {way.form for way in last.ways} == {"fused", "polyphase"} and last.title == "512x512x64 -> 32"
    small = next(layer for layer in cases.layers if layer.name == "conv1")
    assert {way.form for way in small.ways} == {"split", "one launch"}


def test_work_is_that_of_the_operators(cases):
    works = kernels.works_of(cases)
    problem = next(one for one in cases.problems if one.title == "32x32x512 -> 512, demodulation")
    assert works[problem.key] == [(conv3x3_work(32, 32, 512, 512), True)]
    sequence = next(one for one in cases.problems if one.operator == "layer")
    assert len(works[sequence.key]) == 2
    # The forms of an up-convolution have the floors that the choice between them goes by, but for the rate of what is no product.
    layer = next(layer for layer in cases.layers if (layer.subnet, layer.name) == ("1@1024", "convs.12"))
    for form, floor in up_floors_us(256, 256, 128, 64, 4.8e12, 990e12).items():
        least = kernels.least_way(layer, works, H200, form)
        assert kernels.floor_us(least, H200) == pytest.approx(floor, rel=0.01)


def test_what_a_launch_does_not_say_is_found_again():
    layers = [(0, 32, 48), (1, 48, None), (1, 48, 160)]
    assert layers_of(units_of(layers, 64)) == layers
    taps = Slot("taps", (5, 3), torch.float32, shared=True)
    x, out = Slot("x", (1, 9, 7, 4), torch.float16), Slot("out", (1, 7, 20, 4), torch.float16)
    call = upfirdn2d_call(x, taps, out, (3, 1), (1, 2), (2, -1, 4, 4))
    assert padding_of(call) == (2, -1, 4, 4)
    assert work_of(call, {}).written == 2 * 7 * 20 * 4
    with pytest.raises(ValueError, match="not an operator"):
        operator_of(type("Other", (), {"name": "other"})())


def test_devices():
    work = Work(4_800_000, 0, 990_000_000, tensor_cores=True)
    assert H200.floor_us(work, True) == 1 and H200.memory_bound(work, True)
    assert H200.floor_us(work, False) == pytest.approx(990 / 67), "products of float32 take no tensor cores"
    assert measured("x", 990.0, 4800.0).floor_us(work, False) == pytest.approx(990 / 67)
    assert measured("x", 990.0, 4800.0, 60.0).vector == 60e12


def test_the_floors_that_docs_quote(cases):
    works = kernels.works_of(cases)
    for subnet, device, us, launches in (
        ("1@1024", H200, 257, 34),
        ("0.5@512", H200, 70, 30),
        ("1@1024", RTX_4090, 1415, 34),
    ):
        layers = [layer for layer in cases.layers if layer.subnet == subnet]
        least = [one for layer in layers for one in kernels.least_way(layer, works, device)]
        assert (round(kernels.floor_us(least, device)), len(least)) == (us, launches)


def test_the_command(capsys):
    assert kernels.main(["--subnets", "0.25@256", "--devices", "h200"]) == 0
    text = capsys.readouterr().out
    assert "| to_rgb | 256x256x32, style, skip | 0.25@256 to_rgbs.5 | 5.18 | 0.01 | 1.1 | memory |" in text
    assert "| 0.25@256 | convs.10 | 128x128x64 -> 32 | 2.4 | 3.1 | fused |" in text
    for wrong in (("--devices", "x"), ("--devices", ","), ("--subnets", "9@9")):
        assert kernels.main(list(wrong)) == 2
        said = capsys.readouterr().err
        assert said.startswith("kernels: ") and len(said.splitlines()) == 1
