"""Features: how pictures reach the networks, against Pillow and PyTorch by themselves; files that are refused.

The standard file of Inception's weights is not here: random weights with its names and shapes stand in for it.
"""

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from anycost.benchmarks.quality.features import (
    AVATAR_DATA,
    AVATAR_NETWORK,
    avatar_features,
    clean_fid_input,
    embedded_data,
    inception_features,
    pytorch_fid_input,
)
from anycost.errors import CheckpointError, InputError
from anycost.networks.inception import InceptionV3
from anycost.networks.resnet import AttributePredictor
from anycost.weights.save import save

STAGES, SIDE, DIM = [(1, 8), (1, 12)], 32, 48


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (count, height, width, 3)).astype(np.uint8)


def filled(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """With batch norms that do something, as trained ones do."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            scale = 0.5 + torch.rand(tensor.shape, generator=generator)
            fan_in = max(tensor[0].numel(), 1) if tensor.dim() > 1 else 1
            noise = torch.randn(tensor.shape, generator=generator) * (2 / fan_in) ** 0.5
            tensor.copy_(scale if name.endswith(("running_var", "bn.weight")) else noise)
    return network.eval()


@pytest.fixture(scope="module")
def avatar(tmp_path_factory):
    network = filled(AttributePredictor(3, STAGES, SIDE), 0)
    path = tmp_path_factory.mktemp("avatar") / AVATAR_NETWORK
    arguments = {"attributes": 3, "stages": STAGES, "size": SIDE}
    metadata = {"network": "attributes", "arguments": json.dumps(arguments), "labels": '["hat", "glasses", "beard"]'}
    save(path, network.state_dict(), metadata)
    return network, path


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    network = filled(InceptionV3(), 1)
    path = tmp_path_factory.mktemp("inception") / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(network.state_dict(), path)
    return network, path


@pytest.mark.parametrize("side", [8, 32, 48, 128])
def test_avatar_features_of_any_side(avatar, side):
    network, path = avatar
    extract = avatar_features(path)
    images = pictures(35, side, side)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 127.5 - 1
    if side == 128:  # by area: means of whole blocks
        x = x.reshape(35, 3, 32, 4, 32, 4).mean((3, 5))
    elif side == 48:  # by area, windows that overlap by half a pixel: PyTorch's adaptive pooling takes whole pixels
        x = F.adaptive_avg_pool2d(x, SIDE)
    elif side == 8:
        x = torch.from_numpy(
            np.stack(
                [
                    [np.asarray(Image.fromarray(plane).resize((32, 32), Image.Resampling.BILINEAR)) for plane in image]
                    for image in x.float().numpy()
                ]
            )
        )
    expected = network.trunk(x.float()).detach().numpy()
    found = extract(images)
    assert found.shape == (35, DIM) == (35, extract.dim) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(extract.logits(found), network(x.float()).detach().numpy(), rtol=1e-2, atol=1e-2)


def test_what_avatar_features_say_of_themselves(avatar):
    _, path = avatar
    extract = avatar_features(path)
    assert extract.measure == "FD-avatar" and extract.labels == ("hat", "glasses", "beard")
    assert extract.network_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(extract.identity) == 64 and extract.identity != extract.network_sha256


def test_embedded_data_must_be_of_the_same_network(avatar, tmp_path):
    _, path = avatar
    extract = avatar_features(path)
    features = torch.randn(20, DIM).half()
    file = tmp_path / AVATAR_DATA
    save(file, {"features": features}, {"network_sha256": extract.network_sha256})
    found = embedded_data(extract, file)
    assert found.dtype == np.float32 and np.array_equal(found, features.float().numpy())
    for tensors, metadata, reason in (
        ({"features": features}, {"network_sha256": "0" * 64}, "of the network 000000000000, not of"),
        ({"features": features}, {}, "of the network unknown"),
        ({"features": features[:, 1:]}, {"network_sha256": extract.network_sha256}, r"\[20, 47\], not \[N, 48\]"),
        ({"other": features}, {"network_sha256": extract.network_sha256}, "holds no features"),
    ):
        save(file, tensors, metadata)
        with pytest.raises(CheckpointError, match=reason):
            embedded_data(extract, file)


@pytest.mark.parametrize(("height", "width"), [(5, 5), (64, 48), (700, 640)])
def test_pytorch_fids_resize(height, width):
    """Bilinear at half-pixel centres without a filter, written out here for one channel."""
    images = pictures(2, height, width)
    found = pytorch_fid_input(images)
    assert found.shape == (2, 3, 299, 299)
    plane = images[1, :, :, 2] / 255

    def taps(size):
        at = np.clip((np.arange(299) + 0.5) * size / 299 - 0.5, 0, None)
        low = np.minimum(at.astype(int), size - 1)
        return low, np.minimum(low + 1, size - 1), at - low

    (y0, y1, fy), (x0, x1, fx) = taps(height), taps(width)
    top = plane[y0][:, x0] * (1 - fx) + plane[y0][:, x1] * fx
    bottom = plane[y1][:, x0] * (1 - fx) + plane[y1][:, x1] * fx
    expected = 2 * (top * (1 - fy[:, None]) + bottom * fy[:, None]) - 1
    # PyTorch places the taps in float32, to 1e-4 of a pixel at 700.
    np.testing.assert_allclose(found[1, 2].numpy(), expected, atol=5e-4)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (64, 64), (700, 640)])
def test_clean_fids_resize(height, width):
    """PyTorch's antialiased bicubic is Pillow's; what overshoots is clipped, and nothing is rounded."""
    images = pictures(2, height, width)
    found = clean_fid_input(images)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    expected = F.interpolate(x, (299, 299), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(found, (expected.clamp(0, 255) - 128) / 128, rtol=0, atol=1e-4)
    if height < 299:
        assert expected.max() > 256 and expected.min() < -1
    assert found.max() <= 127 / 128 and found.min() >= -1


def test_inception_features_are_named_by_their_resize(inception):
    network, path = inception
    images = pictures(1, 40, 40)
    identities = set()
    for resize, prepare in (("pytorch-fid", pytorch_fid_input), ("clean-fid", clean_fid_input)):
        extract = inception_features(path, resize)
        assert extract.measure == f"FID ({resize} resize)" and extract.dim == 2048
        identities.add(extract.identity)
        with torch.no_grad():
            expected = network(prepare(images))[0].numpy()
        np.testing.assert_allclose(extract(images), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert len(identities) == 2
    with pytest.raises(InputError, match="pytorch-fid or clean-fid"):
        inception_features(path, "bicubic")


def test_networks_and_pictures_that_are_refused(avatar, inception):
    with pytest.raises(CheckpointError, match="of kind attributes"):
        inception_features(avatar[1])
    with pytest.raises(CheckpointError, match="of kind inception"):
        avatar_features(inception[1])
    extract = avatar_features(avatar[1])
    for wrong in (pictures(2, 8, 8).astype(np.float32), pictures(2, 8, 8)[..., :1], pictures(1, 8, 8)[:0]):
        with pytest.raises(InputError, match=r"uint8 \[N, H, W, 3\]"):
            extract(wrong)
