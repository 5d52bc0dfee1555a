import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from anycost.runtime.parity import compare, psnr, ssim, views

RANDOM = np.random.RandomState(0)


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (2, 3, 33, 40), (1, 1, 64, 64)])
@pytest.mark.parametrize("error", [1e-3, 0.1, 1.0])
def test_agrees_with_scikit_image(shape, error):
    expected = RANDOM.uniform(-1, 1, shape).astype(np.float32)
    found = (expected + error * RANDOM.standard_normal(shape)).astype(np.float32)
    assert psnr(found, expected, 2.0) == pytest.approx(
        peak_signal_noise_ratio(expected, found, data_range=2.0), abs=1e-4
    )
    planes = [
        structural_similarity(x, y, data_range=2.0, win_size=7)
        for x, y in zip(expected.reshape(-1, *shape[2:]), found.reshape(-1, *shape[2:]), strict=True)
    ]
    # scikit-image leaves out the border of half a window; so do windows that lie wholly inside.
    assert ssim(found, expected, 2.0) == pytest.approx(np.mean(planes), abs=1e-5)


def test_large_images_are_kept_as_average_and_windows():
    image = RANDOM.standard_normal((1, 3, 512, 512)).astype(np.float32)
    kept = views({"image": image})
    shown = {name: view.shape[-1] for name, view in kept.items()}
    assert shown == {"image.pooled": 128, "image.corner": 64, "image.centre": 64}
    assert np.allclose(kept["image.pooled"][0, 0, 0, 1], image[0, 0, :4, 4:8].mean(), atol=1e-6)
    assert np.array_equal(kept["image.centre"], image[:, :, 224:288, 224:288])
    assert views({"image": image[:, :, :128, :128]}).keys() == {"image.whole"}


def test_each_output_is_measured_by_its_own_range():
    """An error of a thousandth of a small output is not hidden by a large output beside it."""
    expected = {"content": RANDOM.standard_normal((2, 500)) * 1000, "style": RANDOM.standard_normal((2, 8)) * 0.01}
    found = expected | {"style": expected["style"] * 1.001}
    assert 60 < compare(views(found), views(expected)).psnr_db < 80


def test_every_pixel_of_a_large_image_counts():
    expected = RANDOM.standard_normal((1, 3, 512, 512)).astype(np.float32)
    found = expected.copy()
    found[0, 1, 300, 5] += 10  # outside both windows
    assert compare(views({"x": found}), views({"x": expected})).psnr_db < 80
    assert compare(views({"x": expected}), views({"x": expected})).psnr_db == 200


def test_nan_is_the_worst():
    expected = np.ones((1, 3, 8, 8), np.float32)
    found = expected.copy()
    found[0, 0, 0, 0] = np.nan
    assert compare({"x.whole": found}, {"x.whole": expected}).psnr_db == -200


def test_other_shapes_are_an_error():
    with pytest.raises(ValueError, match="cannot be compared"):
        compare({"x.whole": np.ones((1, 2))}, {"x.whole": np.ones((1, 3))})
