"""InceptionV3 in the form that the Frechet inception distance is defined by.

Sources: Szegedy et al., arXiv 1512.00567; Heusel et al., arXiv 1706.08500. The weights of the original FID were trained in
TensorFlow, whose average pooling leaves the padding out and whose last block pools by the maximum; the standard PyTorch file
of them (pt_inception-2015-12-05) has these parameter names and 1008 classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES, CLASSES, SIDE = 2048, 1008, 299
Kernel = int | tuple[int, int]


class _Conv(nn.Module):
    """Convolution without bias, batch norm (epsilon 0.001), ReLU."""

    def __init__(self, entering: int, leaving: int, kernel: Kernel, stride: int = 1, padding: Kernel = 0):
        super().__init__()
        self.conv = nn.Conv2d(entering, leaving, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(leaving, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _mean3(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _BlockA(nn.Module):
    """35 px: 1x1, 5x5, double 3x3, pooling."""

    def __init__(self, entering: int, pool: int):
        super().__init__()
        self.branch1x1 = _Conv(entering, 64, 1)
        self.branch5x5_1 = _Conv(entering, 48, 1)
        self.branch5x5_2 = _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(entering, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(entering, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat(
            [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(_mean3(x))], 1
        )


class _BlockB(nn.Module):
    """35 to 17 px."""

    def __init__(self, entering: int):
        super().__init__()
        self.branch3x3 = _Conv(entering, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(entering, 64, 1)
        self.branch3x3dbl_2 = _Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class _BlockC(nn.Module):
    """17 px: 1x1, 1x7 and 7x1, twice these, pooling."""

    def __init__(self, entering: int, width: int):
        super().__init__()
        wide: dict[str, tuple[Kernel, Kernel]] = {"17": ((1, 7), (0, 3)), "71": ((7, 1), (3, 0))}
        self.branch1x1 = _Conv(entering, 192, 1)
        self.branch7x7_1 = _Conv(entering, width, 1)
        self.branch7x7_2 = _Conv(width, width, wide["17"][0], padding=wide["17"][1])
        self.branch7x7_3 = _Conv(width, 192, wide["71"][0], padding=wide["71"][1])
        self.branch7x7dbl_1 = _Conv(entering, width, 1)
        self.branch7x7dbl_2 = _Conv(width, width, wide["71"][0], padding=wide["71"][1])
        self.branch7x7dbl_3 = _Conv(width, width, wide["17"][0], padding=wide["17"][1])
        self.branch7x7dbl_4 = _Conv(width, width, wide["71"][0], padding=wide["71"][1])
        self.branch7x7dbl_5 = _Conv(width, 192, wide["17"][0], padding=wide["17"][1])
        self.branch_pool = _Conv(entering, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_mean3(x))], 1)


class _BlockD(nn.Module):
    """17 to 8 px."""

    def __init__(self, entering: int):
        super().__init__()
        self.branch3x3_1 = _Conv(entering, 192, 1)
        self.branch3x3_2 = _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(entering, 192, 1)
        self.branch7x7x3_2 = _Conv(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = _Conv(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, stride=2)], 1)


class _BlockE(nn.Module):
    """8 px: branches that split into 1x3 and 3x1. maximum: pool by the maximum, as the last block of the FID's weights does."""

    def __init__(self, entering: int, maximum: bool):
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = _Conv(entering, 320, 1)
        self.branch3x3_1 = _Conv(entering, 384, 1)
        self.branch3x3_2a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = _Conv(entering, 448, 1)
        self.branch3x3dbl_2 = _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _Conv(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = _Conv(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = _Conv(entering, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _mean3(x)
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(once),
                self.branch3x3_2b(once),
                self.branch3x3dbl_3a(twice),
                self.branch3x3dbl_3b(twice),
                self.branch_pool(pooled),
            ],
            1,
        )


class InceptionV3(nn.Module):
    """Image [N, 3, 299, 299] in [-1, 1] -> features [N, 2048] (the FID's) and logits [N, 1008].

    Resizing to 299 px is the caller's: pytorch-fid's bilinear one and clean-fid's filtered one give different distances.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b = _BlockA(192, 32)
        self.Mixed_5c = _BlockA(256, 64)
        self.Mixed_5d = _BlockA(288, 64)
        self.Mixed_6a = _BlockB(288)
        self.Mixed_6b = _BlockC(768, 128)
        self.Mixed_6c = _BlockC(768, 160)
        self.Mixed_6d = _BlockC(768, 160)
        self.Mixed_6e = _BlockC(768, 192)
        self.Mixed_7a = _BlockD(768)
        self.Mixed_7b = _BlockE(1280, maximum=False)
        self.Mixed_7c = _BlockE(2048, maximum=True)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(image)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = self.get_submodule(f"Mixed_{name}")(x)
        features = x.mean([2, 3])
        return features, self.fc(features)
