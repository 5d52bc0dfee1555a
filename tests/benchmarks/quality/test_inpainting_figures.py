"""Figures of fillings against scikit-image and by hand."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from anycost.benchmarks.quality.inpainting import FIGURES, MASKS, border_mean, inpainting
from anycost.errors import InputError
from anycost.runtime.masks import box

SIDE = 48


def pictures(count: int) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.RandomState(0).standard_normal((count, SIDE, SIDE, 3)), (0, 4, 4, 0))
    return np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)


def test_a_filling_that_is_off_by_ten_levels():
    images = np.clip(pictures(3), 20, 200)
    seen = []

    def off(hidden, mask):
        seen.append((hidden, mask))
        return images[(len(seen) - 1) % 3] + np.uint8(10)

    found = inpainting(off, images, seed=7)
    assert set(found) == {
        *(f"{kind}.{figure}" for kind in MASKS for figure in (*FIGURES, "missing")),
        *(f"{kind}.border mean.{figure}" for kind in MASKS for figure in FIGURES),
        "pictures",
    }
    for k, kind in enumerate(MASKS):
        masks = [mask for _, mask in seen[3 * k : 3 * k + 3]]
        assert all(np.array_equal(mask, MASKS[kind](SIDE, SIDE, 7 + i)) for i, mask in enumerate(masks))
        assert found[f"{kind}.mae"] == found[f"{kind}.rmse"] == 10
        assert found[f"{kind}.missing"] == pytest.approx(np.mean(masks))
        filled = [np.where(mask[..., None], x + np.uint8(10), x) for mask, x in zip(masks, images, strict=True)]
        options = {"channel_axis": 2, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        pairs = list(zip(images, filled, strict=True))
        psnr = np.mean([peak_signal_noise_ratio(x, y, data_range=255) for x, y in pairs])
        ssim = np.mean([structural_similarity(x, y, data_range=255, **options) for x, y in pairs])
        assert found[f"{kind}.psnr_db"] == pytest.approx(psnr, abs=1e-3)
        assert found[f"{kind}.ssim"] == pytest.approx(ssim, abs=1e-4)
    assert found["central.missing"] == 0.25


def test_nothing_of_what_is_missing_is_shown_and_what_is_known_stays():
    images = pictures(2)

    def check(hidden, mask):
        assert not hidden[mask].any()
        assert any(np.array_equal(hidden[~mask], x[~mask]) for x in images)
        return np.full_like(hidden, 255)

    found = inpainting(check, images)
    mask = MASKS["central"](SIDE, SIDE, 0)
    assert found["central.mae"] == pytest.approx(np.mean(255 - images[:, mask].astype(float)))


def test_border_mean_by_dilation():
    image = pictures(1)[0]
    for mask in (box(SIDE, SIDE, (5, 9, 4, 7)), box(SIDE, SIDE, (0, 0, 3, 3)), MASKS["free form"](SIDE, SIDE, 3)):
        ring = ndimage.binary_dilation(mask, np.ones((3, 3))) & ~mask
        filled = border_mean(image, mask)
        assert np.array_equal(filled[~mask], image[~mask])
        np.testing.assert_allclose(filled[mask], np.broadcast_to(image[ring].mean(0), filled[mask].shape), atol=0.5)


def test_a_better_filling_has_better_figures():
    images = pictures(4)
    originals = iter(list(images) * 3)
    found = inpainting(lambda hidden, mask: next(originals), images)
    for kind in MASKS:
        assert found[f"{kind}.psnr_db"] == 100 and found[f"{kind}.mae"] == found[f"{kind}.rmse"] == 0
        assert found[f"{kind}.border mean.psnr_db"] < 60
        assert found[f"{kind}.border mean.rmse"] >= found[f"{kind}.border mean.mae"] > 5


def test_no_pictures():
    with pytest.raises(InputError):
        inpainting(border_mean, pictures(1)[:0])
