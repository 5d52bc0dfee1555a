"""Finding directions: from scores or tags of the images of style codes w [M, style_dim], or from the weights alone.

Codes are taken as float64, less their mean and divided by one number, their overall standard deviation: that leaves every
direction in W as it is and makes a classifier's regularisation mean the same for every generator. Everything is
deterministic. InputError names what does not fit; BackendError is raised where scikit-learn is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from anycost.editing.directions import unit
from anycost.errors import BackendError, InputError

Array = np.ndarray

_TRAIN_SHARE = 0.7  # InterFaceGAN's split
_FEWEST_EACH = 4  # codes an end: two to train on and two held out
_LIES_WITHIN = 1e-4  # what is left of a unit vector when it lies within its conditions, up to float32 rounding


@dataclass(frozen=True, eq=False)
class Boundary:
    """Unit normal float32 [style_dim] towards higher scores; accuracy in [0, 1] on `held_out` codes of both ends that
    were not among the `trained` ones. Chance is 0.5: a normal near that means nothing."""

    normal: Array
    accuracy: float
    trained: int
    held_out: int


def interfacegan(w: Array, scores: Array, share: float = 0.02, seed: int = 0) -> Boundary:
    """A linear SVM (C = 1) on the `share` of codes with the highest scores against as many with the lowest.

    InterFaceGAN (Shen et al., arXiv 2005.09635), which Anycost GAN's boundaries were made by. scores is float [M], any
    unit, higher for more of the attribute; share in (0, 0.5]; of each end, 70% drawn by the seed train the SVM and the
    rest is held out. Raises InputError for fewer than 4 codes an end and for scores that do not tell the ends apart.
    """
    w = _codes(w)
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(w),):
        raise InputError(f"scores {list(scores.shape)} for {len(w)} codes: one score a code was expected")
    if not np.isfinite(scores).all():
        raise InputError("the scores hold NaN or infinity")
    if not 0 < share <= 0.5:
        raise InputError(f"share {share:g} is outside 0..0.5: 0.02 takes the highest and the lowest 2%")
    count = int(len(w) * share)
    if count < _FEWEST_EACH:
        raise InputError(
            f"{share:g} of {len(w)} codes is {count} an end, and {_FEWEST_EACH} are needed: "
            "give more codes or a larger share"
        )
    order = np.argsort(scores, kind="stable")
    if scores[order[count - 1]] >= scores[order[-count]]:
        raise InputError(f"the {count} highest and the {count} lowest scores are the same: nothing tells them apart")
    state = np.random.RandomState(seed)
    low, high = state.permutation(order[:count]), state.permutation(order[-count:])
    train = int(count * _TRAIN_SHARE)
    labels = np.repeat([0, 1], train)
    classifier = _sklearn("svm").SVC(kernel="linear", C=1.0).fit(w[np.r_[low[:train], high[:train]]], labels)
    rest = np.r_[low[train:], high[train:]]
    right = classifier.predict(w[rest]) == np.repeat([0, 1], count - train)
    return Boundary(unit(classifier.coef_[0]), float(right.mean()), 2 * train, len(rest))


def linear(w: Array, tags: Array) -> Array:
    """Least squares of a 0/1 tag vector [M] on the codes; the least-norm solution for fewer codes than dimensions."""
    w, y = _tagged(w, tags)
    return unit(_sklearn("linear_model").LinearRegression().fit(w, y).coef_)


def lasso(w: Array, tags: Array, penalty: float = 0.1) -> Array:
    """Least squares of a 0/1 tag vector [M] with an L1 penalty: few coordinates of the direction differ from 0.

    penalty in (0, 1) is a share of the smallest one that leaves nothing, max |w^T (y - mean y)| / M, so that it means the
    same for common and rare tags; scikit-learn's default of 1 would leave nothing of most tags.
    """
    if not 0 < penalty < 1:
        raise InputError(f"penalty {penalty:g} is outside 0..1: it is a share of the one that leaves no coordinate")
    w, y = _tagged(w, tags)
    nothing_left = np.abs(w.T @ (y - y.mean())).max() / len(y)
    if nothing_left == 0:
        raise InputError("the tag has nothing to do with the codes: every correlation is 0")
    # The default tolerance is 1e-4 of the tag's variance: a tag that the codes explain no better would end at 0 at once.
    model = _sklearn("linear_model").Lasso(alpha=penalty * nothing_left, max_iter=10_000, tol=1e-9)
    return unit(model.fit(w, y).coef_)


def logistic(w: Array, tags: Array) -> Array:
    """Logistic regression of a 0/1 tag vector [M] with an L2 penalty (C = 1)."""
    w, y = _tagged(w, tags)
    return unit(_sklearn("linear_model").LogisticRegression(C=1.0, max_iter=1000).fit(w, y).coef_[0])


def svm_on_tags(w: Array, tags: Array) -> Array:
    """Linear SVM of a 0/1 tag vector [M] (squared hinge, C = 1). In the primal form, whose time grows with M only
    linearly: all codes take part here, not two small ends."""
    w, y = _tagged(w, tags)
    return unit(_sklearn("svm").LinearSVC(C=1.0, dual=False).fit(w, y).coef_[0])


def svd_of_tag(w: Array, tags: Array) -> Array:
    """First right singular vector of the codes that have the tag, towards their mean less the mean of the rest.

    That is the direction in which those codes are largest, so it finds the tag only where the tag moves the codes far,
    as rare tags do: of Gaussian codes split in halves, both halves are as large in every direction as all of them.
    The mean of all codes is taken off before, or it would itself be the first vector of nearly every tag.
    """
    w, y = _tagged(w, tags)
    has = y == 1
    first = np.linalg.svd(w[has], full_matrices=False)[2][0]
    return unit(first if first @ (w[has].mean(0) - w[~has].mean(0)) >= 0 else -first)


BY_TAGS: dict[str, Callable[[Array, Array], Array]] = {
    "linear": linear,
    "lasso": lasso,
    "logistic": logistic,
    "svm": svm_on_tags,
    "svd": svd_of_tag,
}


def frequent(tags: Array, most: float = 0.98) -> Array:
    """Columns, int64 [K] ascending, of tags [M, T] of 0 and 1 that are worth a direction: those in more than `most` of
    the images are dropped because every image has them, and those in none because nothing shows them."""
    tags = np.asarray(tags)
    if tags.ndim != 2 or tags.size == 0:
        raise InputError(f"tags {list(tags.shape)}: [images, tags] was expected")
    if not 0 < most <= 1:
        raise InputError(f"most {most:g} is outside 0..1: it is a share of the images")
    counts = _zeros_and_ones(tags).sum(0)
    return np.flatnonzero((counts > 0) & (counts <= most * len(tags)))


def condition(n: Array, others: Sequence[Array] | Array) -> Array:
    """Conditional projection n - sum (n.c) c, again of length 1: moves n [style_dim] and not the `others` [style_dim].

    Of several conditions the sum runs over an orthonormal basis of what they span, as InterFaceGAN (arXiv 2005.09635)
    projects on their common plane: with the conditions themselves the result would not be orthogonal to any two that
    are not orthogonal to each other. Conditions may depend on each other. Raises InputError where n lies in the plane.
    """
    start = unit(n).astype(np.float64)
    conditions = [unit(other).astype(np.float64) for other in others]
    if any(other.shape != start.shape for other in conditions):
        raise InputError("a direction and its conditions need one style_dim")
    if not conditions:
        return unit(start)
    _, sizes, rows = np.linalg.svd(np.stack(conditions), full_matrices=False)
    basis = rows[sizes > _LIES_WITHIN * sizes[0]]
    left = start - (start @ basis.T) @ basis
    if np.linalg.norm(left) < _LIES_WITHIN:
        raise InputError("nothing is left of the direction: it lies within its conditions")
    return unit(left)


def opposing(add: Array, subtract: Array) -> Array:
    """unit(add - subtract) for the directions [style_dim] of a tag and its opposite, such as open and closed mouth."""
    add, subtract = unit(add).astype(np.float64), unit(subtract).astype(np.float64)
    if add.shape != subtract.shape:
        raise InputError("two opposing directions need one style_dim")
    if np.linalg.norm(add - subtract) < _LIES_WITHIN:
        raise InputError("two opposing directions are the same: nothing is left")
    return unit(add - subtract)


@dataclass(frozen=True, eq=False)
class Factors:
    """Orthonormal vectors float32 [count, style_dim] and their eigenvalues float64 [count], descending: the squared length
    of what a step of 1 along the vector changes in the chosen layers' styles."""

    vectors: Array
    values: Array


def sefa(
    weights: Sequence[Array],
    count: int,
    layers: slice | Sequence[int] | None = None,
    unit_rows: bool = False,
) -> Factors:
    """The `count` top eigenvectors of A^T A for the style weights A of the layers (SeFa, arXiv 2007.06600). Needs no images.

    weights are the layers' affine matrices float [C_i, style_dim], in the generator's order and with any learning-rate
    factor applied; layers are those to stack, all by default: a slice, or indices from 0. unit_rows divides every row of A
    by its length, as SeFa's published code does and its formula does not. An eigenvector's sign is arbitrary: here its
    largest coordinate by magnitude is positive. Vectors of equal eigenvalues are any basis of what they span.
    """
    if layers is None or isinstance(layers, slice):
        chosen = list(weights if layers is None else weights[layers])
    else:
        outside = [layer for layer in layers if not 0 <= layer < len(weights)]
        if outside:
            raise InputError(f"layer {outside[0]} is outside 0..{len(weights) - 1}")
        chosen = [weights[layer] for layer in sorted(set(layers))]
    if not chosen:
        raise InputError(f"no layers are chosen of {len(weights)}")
    if any(np.ndim(a) != 2 or np.size(a) == 0 or np.shape(a)[1] != np.shape(chosen[0])[1] for a in chosen):
        shapes = ", ".join(str(list(np.shape(a))) for a in chosen)
        raise InputError(f"style weights {shapes}: [C, style_dim] with one style_dim was expected")
    a = np.concatenate(chosen).astype(np.float64)
    if not np.isfinite(a).all() or not a.any():
        raise InputError("the style weights are all 0, or hold NaN or infinity")
    if not 1 <= count <= a.shape[1]:
        raise InputError(f"count {count} is outside 1..{a.shape[1]}: there are as many eigenvectors as dimensions")
    if unit_rows:
        lengths = np.linalg.norm(a, axis=1, keepdims=True)
        a = a / np.where(lengths == 0, 1, lengths)
    values, columns = np.linalg.eigh(a.T @ a)
    top = columns.T[::-1][:count]
    largest = np.take_along_axis(top, np.abs(top).argmax(1)[:, None], 1)
    # Eigenvalues of A^T A are not negative; rounding makes the smallest so.
    return Factors((top * np.sign(largest)).astype(np.float32), np.maximum(values[::-1][:count], 0))


def _sklearn(part: str) -> Any:
    try:
        return import_module(f"sklearn.{part}")
    except ImportError:
        raise BackendError("finding directions needs scikit-learn, which is not installed") from None


def _codes(w: Array) -> Array:
    w = np.asarray(w)
    if w.ndim != 2 or w.size == 0 or not np.issubdtype(w.dtype, np.floating):
        raise InputError(f"style codes {w.dtype} {list(w.shape)}: float [M, style_dim] was expected")
    if not np.isfinite(w).all():
        raise InputError("the style codes hold NaN or infinity")
    centred = w.astype(np.float64) - w.mean(0, dtype=np.float64)
    spread = centred.std()
    if spread <= 1e-12 * np.abs(w).max():  # what rounding of the mean leaves
        raise InputError("the style codes are all the same")
    return np.asarray(centred / spread)


def _zeros_and_ones(tags: Array) -> Array:
    if tags.dtype != bool and not np.isin(tags, (0, 1)).all():
        raise InputError("tags hold something other than 0 and 1: apply a threshold to scores first")
    return tags.astype(np.int64)


def _tagged(w: Array, tags: Array) -> tuple[Array, Array]:
    w = _codes(w)
    tags = np.asarray(tags)
    if tags.shape != (len(w),):
        raise InputError(f"tags {list(tags.shape)} for {len(w)} codes: one a code was expected")
    y = _zeros_and_ones(tags)
    having = int(y.sum())
    if min(having, len(y) - having) < 2:
        raise InputError(f"{having} of {len(y)} codes have the tag: at least 2 with it and 2 without are needed")
    return w, y
