"""DCGAN at 64 px, which is LSGAN's generator here as well: what differs is the loss that trained it.

Sources: DCGAN (arXiv 1511.06434); LSGAN (arXiv 1611.04076). Parameter names ``main.{i}`` are those of PyTorch's example.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn


class Dcgan(nn.Module):
    """z [N, nz] (or [N, nz, 1, 1]), standard normal -> image [N, channels, 64, 64] in [-1, 1].

    Five 4x4 transposed convolutions; batch norm and ReLU after all but the last, which ends in tanh.
    """

    def __init__(self, nz: int = 100, features: int = 64, channels: int = 3):
        super().__init__()
        self.nz, self.channels = nz, channels
        widths = [nz, 8 * features, 4 * features, 2 * features, features]
        layers: list[nn.Module] = []
        for i, (entering, leaving) in enumerate(itertools.pairwise(widths)):
            stride, padding = (1, 0) if i == 0 else (2, 1)
            layers += [
                nn.ConvTranspose2d(entering, leaving, 4, stride, padding, bias=False),
                nn.BatchNorm2d(leaving),
                nn.ReLU(),
            ]
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(features, channels, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z.reshape(-1, self.nz, 1, 1))
