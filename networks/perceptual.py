"""Perceptual distances between images: LPIPS for those who have its weights, and a pyramid distance that needs none.

Sources: LPIPS, Zhang et al., arXiv 1801.03924, on VGG16, Simonyan and Zisserman, arXiv 1409.1556; NLPD, Laparra, Balle,
Berardino and Simoncelli, "Perceptual image quality assessment using a normalized Laplacian pyramid", Electronic Imaging 2016;
the Laplacian pyramid, Burt and Adelson, IEEE Transactions on Communications 31 (1983).

The two are on different scales and must not be compared: ``PyramidDistance`` is LPIPS-like in its use, never in its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anycost.errors import CheckpointError, InputError

# VGG16's 3x3 convolutions, each followed by a ReLU; 0 is a 2x2 max pool. LPIPS reads the ReLU before each pool and the last.
_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
_TAPS = (3, 8, 15, 22, 29)
_HEADS = (64, 128, 256, 512, 512)
# The mean and deviation of ImageNet's pixels, in LPIPS's range [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

# NLPD as its authors fitted it to photographs in [0, 1]: the constant of the divisive normalisation and the weights of the
# neighbours to the sides and above and below, finest level first, the low-pass last. The fit differs a little between left
# and right and between up and down, which is the sampling of the photographs; the two are averaged here.
_SIGMA = (0.0248, 0.0185, 0.0179, 0.0191, 0.0220, 0.2782)
_SIDES = (0.14765, 0.1916, 0.21905, 0.25595, 0.2575, 0.1466)
_ENDS = (0.1013, 0.0797, 0.0472, 0.0, 0.0, 0.0)
_BURT = (0.05, 0.25, 0.4, 0.25, 0.05)
_SMALLEST_VGG, _SMALLEST_PYRAMID = 16, 8
# Added under each level's root, and its own root taken off again: a root has no finite gradient at equal images, and L-BFGS
# wants a smooth bottom. It lowers the distance by 0.001 at most.
_SOFT = 1e-6


class Lpips(nn.Module):
    """LPIPS v0.1 on VGG16: two images [N, 3, H, W] in [-1, 1], 16 px or more -> [N], 0 for equal images.

    The sum over five layers of the spatial mean of weighted squared differences of unit-length features. As made it has
    random weights and measures nothing: ``load`` the published ones. Parameter names are theirs, ``features.{i}.*``
    (torchvision's VGG16) and ``lin{k}.model.1.weight``; the dropout that the heads were trained with is left out. Tested
    against the paper's formula, not against published distances: the project does not ship these weights.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        entering = 3
        for leaving in _VGG16:
            if leaving:
                layers += [nn.Conv2d(entering, leaving, 3, padding=1), nn.ReLU()]
                entering = leaving
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        for k, channels in enumerate(_HEADS):
            head = nn.Module()
            head.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{k}", head)
        self.register_buffer("shift", torch.tensor(_SHIFT).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).reshape(1, 3, 1, 1), persistent=False)

    def load(self, vgg: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> Lpips:
        """Take the tensors of torchvision's VGG16 file, whose classifier is not needed, and of LPIPS's v0.1 ``vgg.pth``.

        Freezes them and returns itself. Raises CheckpointError that names the first tensor missing or misshapen.
        """
        found = {name: tensor for name, tensor in vgg.items() if name.startswith("features.")}
        found |= {name: tensor for name, tensor in heads.items() if name.startswith("lin")}
        expected = self.state_dict()
        for name, tensor in expected.items():
            if name not in found:
                raise CheckpointError(f"LPIPS: {name} is missing from the files of VGG16 and of the linear heads")
            if found[name].shape != tensor.shape:
                raise CheckpointError(f"LPIPS: {name} has shape {list(found[name].shape)}, not {list(tensor.shape)}")
        self.load_state_dict({name: found[name].float() for name in expected})
        return self.eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        _check_pair(first, second, _SMALLEST_VGG, "LPIPS on VGG16")
        x, y = (first - self.shift) / self.scale, (second - self.shift) / self.scale
        distance = torch.zeros(first.shape[0], dtype=first.dtype, device=first.device)
        for i, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if i in _TAPS:
                head = self.get_submodule(f"lin{_TAPS.index(i)}.model")
                distance = distance + head((_unit(x) - _unit(y)).square()).mean([1, 2, 3])
        return distance


class PyramidDistance(nn.Module):
    """Normalised Laplacian pyramid distance: two images [N, 3, H, W] in [-1, 1], 8 px or more -> [N], 0 for equal images.

    z_k: the levels of a Laplacian pyramid of (image + 1) / 2, the low-pass last; y_k = z_k / (sigma_k + P_k |z_k|), P_k
    the sum over the four neighbours; the distance is the mean over k of the root mean square of y_k's differences.
    So an error counts by the contrast around it, at every scale. Differs from the paper, which is for large grey
    photographs: the three colour channels are each treated like its luminance; levels are as many as fit, at most six, with
    at least 4 px at the low-pass; the root is softened by ``_SOFT``; borders are mirrored, and zero for P_k as there.
    """

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(_BURT)
        neighbours = torch.zeros(len(_SIGMA), 3, 3)
        neighbours[:, 1, 0::2] = torch.tensor(_SIDES)[:, None]
        neighbours[:, 0::2, 1] = torch.tensor(_ENDS)[:, None]
        self.register_buffer("low_pass", torch.outer(taps, taps).expand(3, 1, 5, 5).clone(), persistent=False)
        self.register_buffer("neighbours", neighbours, persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        _check_pair(first, second, _SMALLEST_PYRAMID, "the pyramid distance")
        distances = [
            (((x - y).square().mean([1, 2, 3]) + _SOFT).sqrt() - _SOFT**0.5)
            for x, y in zip(self.normalised(first), self.normalised(second), strict=True)
        ]
        return torch.stack(distances).mean(0)

    def normalised(self, image: Tensor) -> list[Tensor]:
        """Image [N, 3, H, W] in [-1, 1] -> y_k [N, 3, ceil(H / 2^k), ceil(W / 2^k)], finest first, low-pass last."""
        x = (image + 1) / 2
        levels = []
        for _ in range(level_count(x.shape[2], x.shape[3]) - 1):
            small = self._reduce(x)
            levels.append(x - self._expand(small, x.shape[2], x.shape[3]))
            x = small
        constants = [*range(len(levels)), len(_SIGMA) - 1]
        return [self._normalise(z, k) for z, k in zip([*levels, x], constants, strict=True)]

    def _normalise(self, z: Tensor, k: int) -> Tensor:
        neighbours = self.neighbours[k].expand(3, 1, 3, 3)
        return z / (_SIGMA[k] + F.conv2d(z.abs(), neighbours, padding=1, groups=3))

    def _reduce(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.low_pass, stride=2, groups=3)

    def _expand(self, x: Tensor, height: int, width: int) -> Tensor:
        """Zeros between the samples, then the low-pass with gain 4: one transposed convolution, cut to the size."""
        y = F.conv_transpose2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 4 * self.low_pass, stride=2, groups=3)
        return y[:, :, 4 : 4 + height, 4 : 4 + width]


def level_count(height: int, width: int) -> int:
    """Levels of the pyramid, the low-pass with them: 2 at 8 px, one more for every doubling, at most 6."""
    return min(len(_SIGMA), int(log2(min(height, width))) - 1)


def _unit(x: Tensor) -> Tensor:
    # vector_norm, unlike a written-out root of the sum, has a finite gradient where every feature is off.
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)


def _check_pair(first: Tensor, second: Tensor, smallest: int, who: str) -> None:
    if first.shape != second.shape or first.dim() != 4 or first.shape[1] != 3:
        raise InputError(
            f"images {list(first.shape)} and {list(second.shape)}: two of the same shape [N, 3, H, W] were expected"
        )
    if min(first.shape[2:]) < smallest:
        raise InputError(f"images of {first.shape[3]} x {first.shape[2]} px: {who} takes {smallest} px or more")
