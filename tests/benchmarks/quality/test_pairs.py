"""Pairs against scikit-image, and the enlarging against Pillow's."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from anycost.benchmarks.quality.pairs import lpips, pairwise, pyramid_distance
from anycost.errors import CheckpointError, InputError
from anycost.networks.perceptual import Lpips, PyramidDistance

DISTANCE = pyramid_distance()


def pictures(count: int, side: int, seed: int = 0) -> np.ndarray:
    noise = np.random.RandomState(seed).standard_normal((count, side, side, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2, 0))
    return np.clip(128 + 60 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def noisy(images: np.ndarray, size: float) -> np.ndarray:
    grain = size * np.random.RandomState(9).standard_normal(images.shape)
    return np.clip(images + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("count", "side", "size"), [(3, 40, 3), (18, 33, 20), (2, 16, 60)])
def test_agrees_with_scikit_image(count, side, size):
    images = pictures(count, side)
    others = noisy(images, size)
    found = pairwise(others, images, DISTANCE)
    assert all(values.shape == (count,) for values in found.values())
    for i in range(count):
        assert found["psnr_db"][i] == pytest.approx(
            peak_signal_noise_ratio(images[i], others[i], data_range=255), abs=1e-5
        )
        expected = structural_similarity(
            images[i],
            others[i],
            data_range=255,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        # scikit-image computes uint8 in float64.
        assert found["ssim"][i] == pytest.approx(expected, abs=1e-6)
    x, y = (torch.from_numpy(z).permute(0, 3, 1, 2) / 127.5 - 1 for z in (others, images))
    np.testing.assert_allclose(found["distance"], PyramidDistance()(x, y).numpy(), rtol=1e-5)


def test_identical_images_are_100_db():
    images = pictures(2, 32)
    found = pairwise(images, images, DISTANCE)
    assert np.array_equal(found["psnr_db"], [100, 100]) and np.array_equal(found["distance"], [0, 0])
    np.testing.assert_allclose(found["ssim"], 1, atol=1e-12)
    nearly = images.copy()
    nearly[0, 5, 5, 0] ^= 1
    assert 80 < pairwise(nearly, images, DISTANCE)["psnr_db"][0] < 100


def test_ssim_of_nearly_identical_bright_images():
    """Where float32 is worst: large levels, small variances."""
    images = 240 + pictures(2, 40) // 64
    nearly = images.copy()
    nearly[:, 20, 20] += 1
    found = pairwise(nearly, images, DISTANCE)["ssim"]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2}
    expected = [structural_similarity(a, b, data_range=255, **options) for a, b in zip(nearly, images, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    x, y = (torch.from_numpy(z).permute(0, 3, 1, 2).double() for z in (nearly, images))
    _, local = structural_similarity_index_measure(x, y, data_range=255.0, reduction="none", return_full_image=True)
    np.testing.assert_allclose(found, local[:, :, 5:-5, 5:-5].mean([1, 2, 3]), rtol=0, atol=1e-9)


def test_smaller_images_are_enlarged_first():
    """Pillow's bilinear enlarging has the same taps; it rounds to whole levels after each of two passes, so by one level."""
    images = pictures(2, 64)
    small = images[:, ::4, ::4]
    large = np.stack([np.asarray(Image.fromarray(x).resize((64, 64), Image.Resampling.BILINEAR)) for x in small])
    found, expected = pairwise(small, images, DISTANCE), pairwise(large, images, DISTANCE)
    np.testing.assert_allclose(found["psnr_db"], expected["psnr_db"], atol=0.05)
    np.testing.assert_allclose(found["ssim"], expected["ssim"], atol=2e-3)
    np.testing.assert_allclose(found["distance"], expected["distance"], rtol=0.02)
    assert (found["distance"] > 0).all() and (found["psnr_db"] < 40).all()


@pytest.mark.parametrize("side", [1, 4, 8, 11])
def test_the_smallest_pictures_have_figures_too(side):
    images = np.random.RandomState(0).randint(0, 256, (2, side, side, 3)).astype(np.uint8)
    found = pairwise(images // 2, images, DISTANCE)
    assert all(np.isfinite(values).all() for values in found.values())
    error = np.mean((images.astype(float) - images // 2) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(found["psnr_db"], 10 * np.log10(255**2 / error), atol=1e-3)


def test_lpips_of_a_users_files(tmp_path):
    network = Lpips()
    for head in range(5):
        torch.nn.init.uniform_(network.get_parameter(f"lin{head}.model.1.weight"))
    state = network.state_dict()
    files = tmp_path / "vgg16.pth", tmp_path / "vgg.pth"
    torch.save({name: value for name, value in state.items() if name.startswith("features")}, files[0])
    torch.save({name: value for name, value in state.items() if name.startswith("lin")}, files[1])
    distance = lpips(*files)
    assert distance.name == "LPIPS (VGG16)"
    images, others = pictures(2, 16), pictures(2, 16, 1)
    x, y = (torch.from_numpy(z).permute(0, 3, 1, 2) / 127.5 - 1 for z in (others, images))
    with torch.no_grad():
        expected = network(x, y).numpy()
    np.testing.assert_allclose(pairwise(others, images, distance)["distance"], expected, rtol=1e-4)
    with pytest.raises(CheckpointError):
        lpips(files[0], tmp_path / "none.pth")


def test_refused():
    images = pictures(2, 32)
    for other in (images[:1], images[:, :16], images.astype(np.float32), images[..., 0]):
        with pytest.raises(InputError):
            pairwise(images, other, DISTANCE)
