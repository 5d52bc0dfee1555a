"""How far an engine's output is from the reference's: largest difference, PSNR, SSIM. NumPy only, so devices can check."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from anycost.runtime.manifest import ParityRecord

Array = np.ndarray
# By precision. Single precision: rounding alone gives 110 to 140. The half ones: with 11 and 8 significant bits, about 75 and 55
# are seen on these networks, and 45 and 35 are where a difference begins to be visible in a sum of many layers. int8: 127
# steps give 37 to 52 dB on these networks, and ranges cut too short (at the 99.9th percentile) as little as 30.
LEAST_PSNR_DB = {"fp32": 80.0, "fp16": 45.0, "bf16": 35.0, "int8": 30.0}
_WHOLE = 128
_WINDOW = 64
_HIGHEST_PSNR_DB = 200.0


def views(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """What is kept of a network's outputs, as ``OUTPUT.VIEW``."""
    return {f"{name}.{view}": array for name, output in outputs.items() for view, array in _views(output).items()}


def _views(output: Array) -> dict[str, Array]:
    """float32 [N, 3, R, R] up to 128 px, and any other rank, is kept whole.

    A larger image is kept as its average over blocks, so that every pixel counts, and as windows of 64 px in the first
    corner and the centre, so that detail does.
    """
    if output.ndim != 4 or output.shape[-1] <= _WHOLE or output.shape[-1] % _WHOLE:
        return {"whole": output}
    n, channels, side, _ = output.shape
    factor = side // _WHOLE
    pooled = output.reshape(n, channels, _WHOLE, factor, _WHOLE, factor).mean(axis=(3, 5), dtype=np.float64)
    middle = (side - _WINDOW) // 2
    return {
        "pooled": pooled.astype(np.float32),
        "corner": output[:, :, :_WINDOW, :_WINDOW],
        "centre": output[:, :, middle : middle + _WINDOW, middle : middle + _WINDOW],
    }


def compare(found: Mapping[str, Array], expected: Mapping[str, Array]) -> ParityRecord:
    """The worst figures over all views. The peak of PSNR and SSIM is the size of the output's expected values.

    Raises ValueError when the views or their shapes differ.
    """
    if set(found) != set(expected) or any(found[name].shape != expected[name].shape for name in expected):
        raise ValueError(f"outputs of shapes {_shapes(found)} cannot be compared with {_shapes(expected)}")
    peaks = _peaks(expected)
    worst = ParityRecord(max_abs=0.0, psnr_db=_HIGHEST_PSNR_DB, ssim=1.0)
    for name, reference in expected.items():
        other, peak = found[name], peaks[_output(name)]
        if not np.isfinite(other).all():
            return ParityRecord(max_abs=float(np.finfo(np.float32).max), psnr_db=-_HIGHEST_PSNR_DB, ssim=-1.0)
        worst = ParityRecord(
            max_abs=max(worst.max_abs, float(np.abs(other.astype(np.float64) - reference).max())),
            psnr_db=min(worst.psnr_db, psnr(other, reference, peak)),
            ssim=min(worst.ssim, ssim(other, reference, peak) if _is_picture(reference) else 1.0),
        )
    return worst


def _is_picture(output: Array) -> bool:
    """Whether there is a neighbourhood to compare; the one patch of a small discriminator has none."""
    return output.ndim == 4 and min(output.shape[-2:]) > 1


def _output(view: str) -> str:
    return view.rsplit(".", 1)[0]


def _peaks(expected: Mapping[str, Array]) -> dict[str, float]:
    """The size of each output over all its views: the range of its values, or the largest of them where that is more.

    The few numbers of a classifier may lie close together by chance, and float32 is exact to a part of their size.
    """
    found: dict[str, float] = {}
    for output in {_output(name) for name in expected}:
        arrays = [array for name, array in expected.items() if _output(name) == output]
        low, high = min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
        found[output] = max(high - low, abs(high), abs(low)) or 1.0
    return found


def psnr(found: Array, expected: Array, peak: float) -> float:
    """10 log10(peak^2 / mean squared error), at most 200 dB."""
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    if error == 0:
        return _HIGHEST_PSNR_DB
    return min(_HIGHEST_PSNR_DB, 10 * math.log10(peak**2 / error))


def ssim(found: Array, expected: Array, peak: float) -> float:
    """Mean structural similarity of [N, C, H, W] with a uniform 7x7 window and sample covariance.

    Wang et al. 2004 (doi 10.1109/TIP.2003.819861); the same as scikit-image's ``structural_similarity`` per channel.
    Images smaller than the window use a window of their own side.
    """
    x, y = found.astype(np.float64), expected.astype(np.float64)
    size = min(7, *x.shape[-2:])
    count = size * size
    mean_x, mean_y = _box(x, size), _box(y, size)
    correction = count / (count - 1)
    var_x = correction * (_box(x * x, size) - mean_x**2)
    var_y = correction * (_box(y * y, size) - mean_y**2)
    covariance = correction * (_box(x * y, size) - mean_x * mean_y)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float((top / bottom).mean())


def _box(x: Array, size: int) -> Array:
    """Means over size x size windows that lie wholly inside, by summed areas."""
    total = np.pad(x, [(0, 0), (0, 0), (1, 0), (1, 0)]).cumsum(axis=2).cumsum(axis=3)
    inside = (
        total[:, :, size:, size:]
        - total[:, :, :-size, size:]
        - total[:, :, size:, :-size]
        + total[:, :, :-size, :-size]
    )
    mean: Array = inside / size**2
    return mean


def _shapes(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
