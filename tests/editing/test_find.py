"""The finders against planted directions, against independent solvers, and with input that cannot give a direction."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from anycost.editing import find
from anycost.errors import InputError

# 4000 Gaussian codes of 16 dimensions. A least-squares direction of a tag that halves them misses by about
# sqrt(15 * 0.091 / (4000 * 0.159)) = 0.05 (residual variance and squared slope of a 0/1 tag), a cosine of 0.999; a lasso
# also shrinks every coordinate by a tenth of the largest, and the SVM of InterFaceGAN sees 112 codes: both stay above 0.97.
# A wrong sign, a forgotten scale or the wrong end falls far below 0.95.
CLOSE = 0.95
RULES = sorted(find.BY_TAGS)


@pytest.fixture(scope="module")
def planted():
    """Codes float32 [4000, 16] away from 0, and the direction [16]; three coordinates of it are 0."""
    state = np.random.RandomState(1)
    n = state.standard_normal(16)
    n[[3, 7, 11]] = 0
    n /= np.linalg.norm(n)
    return (state.standard_normal((4000, 16)) * 0.5 + 2).astype(np.float32), n


@pytest.fixture(scope="module")
def shifted(planted):
    """A fifth of the codes have the tag and lie 3 standard deviations along the direction from the others."""
    w, n = planted
    tags = np.random.RandomState(2).rand(len(w)) < 0.2
    return (w + 1.5 * tags[:, None] * n).astype(np.float32), tags, n


def scaled(w):
    w = w - w.mean(0, dtype=np.float64)
    return w / w.std()


@pytest.mark.parametrize("rule", RULES)
def test_a_shift_of_the_tagged_codes_is_found(shifted, rule):
    w, tags, n = shifted
    found = find.BY_TAGS[rule](w, tags)
    assert found.dtype == np.float32 and np.linalg.norm(found) == pytest.approx(1, abs=1e-6)
    assert found @ n > CLOSE
    assert find.BY_TAGS[rule](w, ~tags) @ n < (1 if rule == "svd" else -CLOSE)  # the rest is not large anywhere
    assert_array_equal(found, find.BY_TAGS[rule](w, tags.astype(np.float32)))


@pytest.mark.parametrize("rule", ["linear", "lasso", "logistic", "svm"])
def test_a_half_space_is_found(planted, rule):
    w, n = planted
    assert find.BY_TAGS[rule](w, w @ n > np.median(w @ n)) @ n > CLOSE


def test_svd_finds_a_rare_half_space_and_no_common_one(planted):
    w, n = planted
    along = w @ n
    assert find.svd_of_tag(w, along > np.quantile(along, 0.97)) @ n > CLOSE
    assert abs(find.svd_of_tag(w, along > np.median(along)) @ n) < 0.9  # as its documentation says


@pytest.mark.parametrize("rule", RULES)
def test_neither_the_mean_nor_the_scale_of_w_matters(shifted, rule):
    w, tags, _ = shifted
    assert_allclose(find.BY_TAGS[rule](w * 40 - 7, tags), find.BY_TAGS[rule](w, tags), atol=1e-4)


def test_interfacegan_finds_the_direction_and_says_how_well(planted):
    w, n = planted
    found = find.interfacegan(w, w @ n)
    assert found.normal @ n > CLOSE
    assert (found.trained, found.held_out) == (112, 48)  # 2% of 4000 is 80 an end: 56 to train on, 24 held out
    assert found.accuracy > 0.95  # the ends lie 4 standard deviations apart
    assert find.interfacegan(w, -(w @ n)).normal @ n < -CLOSE
    assert_array_equal(found.normal, find.interfacegan(w, np.exp(w @ n)).normal)  # only the order of the scores counts
    assert_array_equal(found.normal, find.interfacegan(w, w @ n).normal)


def test_interfacegan_admits_that_noise_is_noise(planted):
    w, _ = planted
    noise = np.random.RandomState(3).standard_normal(len(w))
    accuracy = find.interfacegan(w, noise, share=0.2).accuracy
    assert abs(accuracy - 0.5) < 0.1  # 480 held-out codes: four standard errors are 0.09


def test_linear_is_least_squares(shifted):
    w, tags, _ = shifted
    with_constant = np.column_stack([w.astype(np.float64), np.ones(len(w))])
    expected = np.linalg.lstsq(with_constant, tags.astype(np.float64), rcond=None)[0][:-1]
    assert_allclose(find.linear(w, tags), expected / np.linalg.norm(expected), atol=1e-5)


def test_logistic_and_svm_agree_with_other_solvers(shifted):
    w, tags, _ = shifted
    newton = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-8).fit(scaled(w), tags).coef_[0]
    assert find.logistic(w, tags) @ newton / np.linalg.norm(newton) > 1 - 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the dual solver comes near enough in its first thousand steps
        dual = LinearSVC(C=1.0, dual=True, random_state=0).fit(scaled(w), tags).coef_[0]
    assert find.svm_on_tags(w, tags) @ dual / np.linalg.norm(dual) > 1 - 1e-4


def test_lasso_leaves_fewer_coordinates_with_a_larger_penalty(planted):
    w, n = planted
    tags = w @ n > np.median(w @ n)
    kept = [np.count_nonzero(find.lasso(w, tags, penalty)) for penalty in (0.01, 0.2, 0.99)]
    assert kept[0] > kept[1] > kept[2] == 1
    assert not find.lasso(w, tags, 0.1)[[3, 7, 11]].any()


def test_lasso_finds_a_tag_that_the_codes_hardly_explain():
    w = np.random.RandomState(0).standard_normal((20_000, 3))
    tags = np.random.RandomState(1).rand(len(w)) < 0.5 + 0.01 * w[:, 2]  # R^2 = 0.0004, and noise has 0.0001
    assert find.lasso(w, tags)[2] > 0.9


def test_fewer_codes_than_dimensions_still_give_a_direction():
    w = np.random.RandomState(0).standard_normal((12, 64))
    tags = w[:, 0] > 0
    for rule in RULES:
        found = find.BY_TAGS[rule](w, tags)
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6), rule


def test_tags_that_every_image_has_are_dropped():
    counts = [0, 1, 50, 97, 98, 99, 100]
    tags = np.stack([np.arange(100) < count for count in counts], axis=1)
    assert [counts[i] for i in find.frequent(tags)] == [1, 50, 97, 98]
    assert [counts[i] for i in find.frequent(tags.astype(np.int8), most=1)] == [1, 50, 97, 98, 99, 100]
    with pytest.raises(InputError, match="outside 0"):
        find.frequent(tags, most=98)
    with pytest.raises(InputError, match="images, tags"):
        find.frequent(tags[0])
    with pytest.raises(InputError, match="other than 0 and 1"):
        find.frequent(tags * 0.7)


W = np.random.RandomState(0).standard_normal((300, 4))
TAGS = np.arange(300) % 2
BAD = W.copy()
BAD[5, 1] = np.nan


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("w", "tags", "message"),
    [
        (W, np.ones(300), "300 of 300 codes have the tag"),
        (W, np.zeros(300), "0 of 300 codes have the tag"),
        (W, np.arange(300) == 7, "1 of 300 codes have the tag"),
        (W, TAGS[:-1], r"tags \[299\] for 300 codes"),
        (W, TAGS * 2, "other than 0 and 1"),
        (W, np.full(300, np.nan), "other than 0 and 1"),
        (BAD, TAGS, "NaN"),
        (W[0], TAGS, r"float \[M, style_dim\] was expected"),
        (W[:0], TAGS[:0], r"float \[M, style_dim\] was expected"),
        (np.ones((300, 4), int), TAGS, "int64"),
        (np.full((300, 4), 0.1), TAGS, "all the same"),
    ],
)
def test_what_gives_no_direction_is_refused(rule, w, tags, message):
    with pytest.raises(InputError, match=message) as caught:
        find.BY_TAGS[rule](w, tags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("penalty", [0, 1, -1, float("nan")])
def test_a_lasso_penalty_is_a_share(penalty):
    with pytest.raises(InputError, match="outside 0"):
        find.lasso(W, TAGS, penalty)


@pytest.mark.parametrize(
    ("scores", "share", "message"),
    [
        (W[:, 0], 0.01, "is 3 an end, and 4 are needed"),
        (W[:, 0], 0, "outside 0..0.5"),
        (W[:, 0], 0.6, "outside 0..0.5"),
        (W[:, 0], float("nan"), "outside 0..0.5"),
        (np.ones(300), 0.1, "nothing tells them apart"),
        (BAD[:, 1], 0.1, "NaN"),
        (W[:, :1], 0.1, "one score a code"),
    ],
)
def test_scores_that_give_no_boundary_are_refused(scores, share, message):
    with pytest.raises(InputError, match=message):
        find.interfacegan(W, scores, share)
