"""The pyramid distance against its formulae in SciPy and against what eyes say; LPIPS against its paper, names and all."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from anycost.errors import CheckpointError, InputError
from anycost.networks.perceptual import Lpips, PyramidDistance, level_count

SIGMA = [0.0248, 0.0185, 0.0179, 0.0191, 0.0220, 0.2782]
# As fitted: left, right, above, below.
FITTED = [
    (0.1493, 0.1460, 0.1011, 0.1015),
    (0.1986, 0.1846, 0.0757, 0.0837),
    (0.2138, 0.2243, 0.0477, 0.0467),
    (0.2503, 0.2616, 0, 0),
    (0.2598, 0.2552, 0, 0),
    (0.2215, 0.0717, 0, 0),
]
DISTANCE = PyramidDistance()


def picture(height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """[3, H, W] in [-0.8, 0.8]: shapes with edges before a flat ground, texture in the right half."""
    state = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width]
    image = np.full((3, height, width), -0.2)
    for _ in range(6):
        at, radius = state.uniform(0, 1, 2) * (height, width), state.uniform(0.05, 0.2) * min(height, width)
        image[:, np.hypot(y - at[0], x - at[1]) < radius] = state.uniform(-0.6, 0.6, (3, 1))
    image[:, :, width // 2 :] += 0.2 * np.sign(np.sin(y + 2 * np.sin(x / 2)))[:, width // 2 :]
    return image


def tensor(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images).astype(np.float32))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return DISTANCE(tensor(first), tensor(second)).item()


def low_pass(x: np.ndarray, mode: str) -> np.ndarray:
    taps = np.array([1, 5, 8, 5, 1]) / 20
    return ndimage.correlate1d(ndimage.correlate1d(x, taps, 0, mode=mode), taps, 1, mode=mode)


def scipy_levels(channel: np.ndarray) -> list[np.ndarray]:
    x, levels = (channel + 1) / 2, []
    count = min(6, int(np.log2(min(x.shape))) - 1)
    for k in range(count):
        if k < count - 1:
            small = low_pass(x, "mirror")[::2, ::2]
            padded = np.pad(small, 1, mode="edge")
            zeros = np.zeros([2 * n for n in padded.shape])
            zeros[::2, ::2] = padded
            large = 4 * low_pass(zeros, "constant")[2:, 2:]
            z, x = x - large[: x.shape[0], : x.shape[1]], small
        else:
            z, k = x, 5
        left, right, above, below = FITTED[k]
        sides, ends = (left + right) / 2, (above + below) / 2
        kernel = np.array([[0, ends, 0], [sides, 0, sides], [0, ends, 0]])
        levels.append(z / (SIGMA[k] + ndimage.convolve(np.abs(z), kernel, mode="constant")))
    return levels


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 11), (37, 50), (64, 64), (200, 129)])
def test_the_formulae_in_scipy(height, width):
    first = picture(height, width)
    second = first + 0.1 * np.random.RandomState(1).standard_normal(first.shape)
    levels = [[scipy_levels(channel) for channel in image] for image in (first, second)]
    count = len(levels[0][0])
    assert count == level_count(height, width)
    roots = [
        np.sqrt(np.mean([(a[k] - b[k]) ** 2 for a, b in zip(*levels, strict=True)]) + 1e-6) - 1e-3 for k in range(count)
    ]
    assert distance(first, second) == pytest.approx(np.mean(roots), rel=1e-4)
    for k, found in enumerate(DISTANCE.normalised(tensor(first))):
        np.testing.assert_allclose(found[0].numpy(), [channel[k] for channel in levels[0]], atol=1e-4)


def test_a_batch_is_its_images_and_the_order_does_not_matter():
    first, second = tensor(picture(seed=0), picture(seed=1)), tensor(picture(seed=2), picture(seed=1))
    found = DISTANCE(first, second)
    assert found.shape == (2,) and found[1] == 0
    torch.testing.assert_close(found[:1], DISTANCE(first[:1], second[:1]))
    torch.testing.assert_close(found, DISTANCE(second, first))


def test_grows_with_blur_and_with_noise():
    image = picture()
    grain = np.random.RandomState(3).standard_normal(image.shape)
    noisy = [distance(image, image + size * grain) for size in (0, 0.01, 0.03, 0.1, 0.3)]
    blurred = [distance(image, ndimage.gaussian_filter(image, (0, size, size))) for size in (0, 0.5, 1, 2, 4)]
    for found in (noisy, blurred):
        assert found[0] == 0 and np.all(np.diff(found) > 0)


def test_what_eyes_forgive_costs_less_than_its_mse_says():
    for seed in range(4):
        image = picture(seed=seed)
        shifted = np.roll(image, 1, axis=2)
        error = np.sqrt(np.mean((shifted - image) ** 2))
        grain = np.random.RandomState(3).standard_normal(image.shape)
        grain *= error / np.sqrt(np.mean(grain**2))
        # By 6 to 14%, and by 13 to 22% without the texture: the distance bends towards shifts but does not ignore them.
        assert distance(image, shifted) < distance(image, image + grain)
    # The same grain is seen less on a texture than on a flat ground: contrast masking.
    flat, busy = np.zeros((3, 32, 32)), 0.5 * np.sign(np.random.RandomState(4).standard_normal((3, 32, 32)))
    grain = 0.05 * np.random.RandomState(5).standard_normal(flat.shape)
    assert distance(busy, busy + grain) < 0.5 * distance(flat, flat + grain)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 0.1])
def test_gradients_are_finite_also_at_equal_and_flat_images(noise):
    for image in (tensor(picture()), torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 9, 16)):
        moved = (image + noise * torch.randn(image.shape, generator=torch.manual_seed(0))).requires_grad_()
        DISTANCE(moved, image).sum().backward()
        assert torch.isfinite(moved.grad).all()
        assert bool(moved.grad.any()) == (noise > 0)


@pytest.mark.parametrize(
    ("first", "second"), [((1, 3, 8, 8), (1, 3, 8, 9)), ((1, 1, 8, 8),) * 2, ((3, 8, 8),) * 2, ((1, 3, 7, 64),) * 2]
)
def test_refused(first, second):
    with pytest.raises(InputError):
        DISTANCE(torch.zeros(first), torch.zeros(second))


@pytest.fixture(scope="module")
def lpips():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Lpips()
        for name, parameter in network.named_parameters():
            if name.startswith("lin"):
                torch.nn.init.uniform_(parameter)
    return network.eval().requires_grad_(False)


def test_lpips_has_the_published_names(lpips):
    convolutions = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    names = [f"features.{i}.{kind}" for i in convolutions for kind in ("weight", "bias")]
    names += [f"lin{k}.model.1.weight" for k in range(5)]
    state = lpips.state_dict()
    assert sorted(state) == sorted(names)
    assert [list(state[f"lin{k}.model.1.weight"].shape) for k in range(5)] == [
        [1, n, 1, 1] for n in (64, 128, 256, 512, 512)
    ]
    assert state["features.0.weight"].shape == (64, 3, 3, 3) and state["features.28.weight"].shape == (512, 512, 3, 3)


def test_lpips_is_the_papers_sum(lpips):
    first, second = tensor(picture(32, 48, 0), picture(32, 48, 1)), tensor(picture(32, 48, 2), picture(32, 48, 1))
    state = {name: value.double() for name, value in lpips.state_dict().items()}

    def features(image):
        mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = ((image.permute(0, 2, 3, 1) - mean) / deviation).permute(0, 3, 1, 2).double()
        for stage in ([0, 2], [5, 7], [10, 12, 14], [17, 19, 21], [24, 26, 28]):
            for i in stage:
                x = F.conv2d(x, state[f"features.{i}.weight"], state[f"features.{i}.bias"], padding=1).clamp(min=0)
            yield x / x.square().sum(1, keepdim=True).sqrt().clamp(min=1e-10)
            x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))

    expected = sum(
        torch.einsum("nchw,c->nhw", (a - b) ** 2, state[f"lin{k}.model.1.weight"].flatten()).mean([1, 2])
        for k, (a, b) in enumerate(zip(features(first), features(second), strict=True))
    )
    found = lpips(first, second)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-9)
    assert found[0] > 0 and found[1] == 0
    moved = first.clone().requires_grad_()
    lpips(moved, second).sum().backward()
    assert torch.isfinite(moved.grad).all()


def test_lpips_loads_its_two_files_or_says_what_is_missing(lpips):
    state = lpips.state_dict()
    vgg = {name: value for name, value in state.items() if name.startswith("features")}
    vgg["classifier.0.weight"] = torch.zeros(1)
    heads = {name: value for name, value in state.items() if name.startswith("lin")}
    loaded = Lpips().load(vgg, heads)
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(CheckpointError, match=r"lin0\.model\.1\.weight is missing"):
        loaded.load(vgg, {})
    with pytest.raises(CheckpointError, match=r"features\.0\.bias has shape \[1\], not \[64\]"):
        loaded.load(vgg | {"features.0.bias": torch.zeros(1)}, heads)
    with pytest.raises(InputError, match="16 px or more"):
        loaded(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
