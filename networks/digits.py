"""Generators of handwritten digits: a small CNN for all of them, a set with one CNN a digit, and an MLP.

Sources: the first GAN (arXiv 1406.2661) for the MLP, DCGAN (arXiv 1511.06434) for the CNN, in the sizes usual for MNIST.
No published weights exist; the names are ours.
"""

from __future__ import annotations

from torch import Tensor, nn

SIDE = 28
DIGITS = 10


class MnistCnn(nn.Module):
    """z [N, nz], standard normal -> image [N, 1, 28, 28] in [-1, 1]: a linear layer to 7 px, two 4x4 stride-2 transposed
    convolutions with leaky ReLU 0.2, a 7x7 convolution, tanh."""

    def __init__(self, nz: int = 100, features: int = 128):
        super().__init__()
        self.nz, self.features = nz, features
        self.fc = nn.Linear(nz, features * 49)
        self.up1 = nn.ConvTranspose2d(features, features, 4, 2, 1)
        self.up2 = nn.ConvTranspose2d(features, features, 4, 2, 1)
        self.last = nn.Conv2d(features, 1, 7, padding=3)

    def forward(self, z: Tensor) -> Tensor:
        x = nn.functional.leaky_relu(self.fc(z), 0.2).reshape(-1, self.features, 7, 7)
        x = nn.functional.leaky_relu(self.up1(x), 0.2)
        x = nn.functional.leaky_relu(self.up2(x), 0.2)
        return self.last(x).tanh()


class DigitSet(nn.Module):
    """One ``MnistCnn`` for each digit, ``digits.0`` to ``digits.9``. z and digit -> image as of ``MnistCnn``."""

    def __init__(self, nz: int = 100, features: int = 128):
        super().__init__()
        self.nz = nz
        self.digits = nn.ModuleList(MnistCnn(nz, features) for _ in range(DIGITS))

    def forward(self, z: Tensor, digit: int) -> Tensor:
        return self.digits[digit](z)


class MlpGan(nn.Module):
    """z [N, nz], standard normal -> image [N, 1, 28, 28] in [-1, 1]: linear layers 256, 512, 1024, 784, with leaky ReLU
    0.2 and batch norm after all but the last, which ends in tanh."""

    WIDTHS = (256, 512, 1024)

    def __init__(self, nz: int = 100):
        super().__init__()
        self.nz = nz
        layers: list[nn.Module] = []
        entering = nz
        for width in self.WIDTHS:
            layers += [nn.Linear(entering, width), nn.LeakyReLU(0.2), nn.BatchNorm1d(width)]
            entering = width
        self.model = nn.Sequential(*layers, nn.Linear(entering, SIDE * SIDE), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.model(z).reshape(-1, 1, SIDE, SIDE)
