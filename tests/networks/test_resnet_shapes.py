"""ResNets of other widths and sides than the published ones: told from their tensors and their file's metadata."""

import json

import pytest
import torch

from anycost.errors import CheckpointError
from anycost.networks.registry import BY_NAME, identify
from anycost.networks.resnet import AttributePredictor, Encoder, ResNet
from anycost.weights.checkpoint import read_any
from anycost.weights.save import save

STAGES = ((1, 8), (2, 12), (3, 4))


def make(kind: str):
    torch.manual_seed(0)
    return Encoder(6, 16, STAGES, 96) if kind == "encoder" else AttributePredictor(5, STAGES, 96)


def write(path, kind: str, arguments: str | None):
    metadata = {"network": kind} | ({} if arguments is None else {"arguments": arguments})
    save(path, make(kind).state_dict(), metadata)
    return path


def test_a_resnet50_has_the_parameters_of_the_usual_one():
    """25 557 032 with 1000 classes, as it is published; the classes of an own count do not change the trunk."""
    with torch.device("meta"):
        network = ResNet(1000)
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032


def test_parameters_of_narrow_stages_by_hand():
    """A bottleneck of width b after a channels: ab + 9bb + 4bb weights, 2(b + b + 4b) of its norms, and for the projection
    4ab + 8b; the stem is as wide as the first stage."""
    expected, entering = 3 * 49 * 8 + 2 * 8, 8
    for i, (blocks, width) in enumerate(STAGES):
        for block in range(blocks):
            expected += entering * width + 13 * width**2 + 12 * width
            if (i and not block) or entering != 4 * width:
                expected += 4 * entering * width + 8 * width
            entering = 4 * width
    expected += (4 * 4 + 1) * 10
    assert sum(parameter.numel() for parameter in make("attributes").parameters()) == expected


@pytest.mark.parametrize("kind", ["encoder", "attributes"])
def test_a_file_tells_stages_and_side(tmp_path, kind):
    made = make(kind).eval()
    found = read_any(write(tmp_path / "it.safetensors", kind, json.dumps({"size": 96, "stages": [[1, 999]]})))
    assert found.network == kind
    assert found.arguments["stages"] == list(STAGES) and found.arguments["size"] == 96
    network = found.module()
    (part,) = BY_NAME[kind].parts(network)
    assert part.inputs[0].shape == (3, 96, 96)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        answer, expected = network(x), made(x)
    assert tuple(answer.shape[1:]) == part.outputs[0].shape == ((6, 16) if kind == "encoder" else (5, 2))
    # The file holds float32, so nothing is rounded.
    assert torch.equal(answer, expected)


@pytest.mark.parametrize("kind", ["encoder", "attributes"])
def test_the_side_survives_another_conversion(tmp_path, kind):
    first = read_any(write(tmp_path / "first.safetensors", kind, '{"size": 96}'))
    save(tmp_path / "second.safetensors", first.tensors, first.described())
    second = read_any(tmp_path / "second.safetensors")
    assert second.arguments == first.arguments and second.module().size == 96


@pytest.mark.parametrize("arguments", [None, "{}", '{"size": null}', "not JSON", "[96]", "96"])
def test_without_a_stated_side_it_is_256(tmp_path, arguments):
    found = read_any(write(tmp_path / "it.safetensors", "attributes", arguments))
    assert "size" not in found.arguments and found.module().size == 256


@pytest.mark.parametrize(
    "size",
    [
        "0",
        "-32",
        "31",
        "48",
        "1056",
        "1e400",
        "64.0",
        "true",
        '"64"',
        "[64]",
        '{"a": 64}',
        "9" * 40,
        '"' + "x" * 500 + '"',
    ],
)
@pytest.mark.parametrize("kind", ["encoder", "attributes"])
def test_a_hostile_side_is_refused_in_one_short_line(tmp_path, kind, size):
    path = write(tmp_path / "it.safetensors", kind, f'{{"size": {size}}}')
    with pytest.raises(CheckpointError, match="multiple of 32 from 32 to 1024") as caught:
        read_any(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_side_means_nothing_to_other_kinds(tmp_path):
    network = BY_NAME["mlp-gan"].make(nz=4)
    save(tmp_path / "it.safetensors", network.state_dict(), {"network": "mlp-gan", "arguments": '{"size": 31}'})
    assert read_any(tmp_path / "it.safetensors").arguments == {"nz": 4}


@pytest.mark.parametrize("kind", ["encoder", "attributes"])
def test_the_published_shape_is_told_without_metadata(kind):
    """And a narrow one is not: its file has to say what it is."""
    with torch.device("meta"):
        network = BY_NAME[kind].make()
        narrow = make(kind)
    for made, expected in ((network, BY_NAME[kind]), (narrow, None)):
        shapes = {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}
        assert identify(shapes) is expected
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert BY_NAME[kind].infer(shapes)["stages"] == [(3, 64), (4, 128), (6, 256), (3, 512)]


@pytest.mark.parametrize("missing", ["layer1.", "layer2.0.conv1.weight", "layer3.1."])
def test_stages_that_are_not_whole_are_refused(tmp_path, missing):
    tensors = {name: tensor for name, tensor in make("attributes").state_dict().items() if not name.startswith(missing)}
    save(tmp_path / "it.safetensors", tensors, {"network": "attributes"})
    with pytest.raises(CheckpointError, match=r"it\.safetensors"):
        read_any(tmp_path / "it.safetensors")
