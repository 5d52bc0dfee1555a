"""Image to image without styles: CycleGAN's and DiscoGAN's generators.

Sources: CycleGAN (arXiv 1703.10593), names ``model.{i}`` and ``conv_block.{j}`` of pytorch-CycleGAN-and-pix2pix; DiscoGAN
(arXiv 1703.05192), names ``main.{i}`` of its authors.
"""

from __future__ import annotations

from torch import Tensor, nn


class _ResnetBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class CycleGan(nn.Module):
    """Image [N, 3, H, W] in [-1, 1], sides multiples of 4 -> image of the other domain, same shape, in [-1, 1].

    7x7, two 3x3 stride 2, residual blocks, two 3x3 transposed stride 2, 7x7, tanh; instance norm without affine.
    """

    def __init__(self, features: int = 64, blocks: int = 9):
        super().__init__()
        f = features
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, f, 7), nn.InstanceNorm2d(f), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(f, 2 * f, 3, stride=2, padding=1), nn.InstanceNorm2d(2 * f), nn.ReLU()]
            f *= 2
        layers += [_ResnetBlock(f) for _ in range(blocks)]
        for _ in range(2):
            layers += [
                nn.ConvTranspose2d(f, f // 2, 3, stride=2, padding=1, output_padding=1),
                nn.InstanceNorm2d(f // 2),
                nn.ReLU(),
            ]
            f //= 2
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(f, 3, 7), nn.Tanh())

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image)


class DiscoGan(nn.Module):
    """Image [N, 3, 64, 64] in [0, 1] -> image of the other domain, same shape, in [0, 1].

    Four 4x4 stride-2 convolutions (leaky ReLU 0.2, batch norm on all but the first), transposed convolutions back (ReLU),
    sigmoid. extra_layers: through a bottleneck of 100 numbers.
    """

    def __init__(self, extra_layers: bool = False):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        for entering in (64, 128, 256):
            layers += [nn.Conv2d(entering, 2 * entering, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * entering)]
            layers.append(nn.LeakyReLU(0.2))
        if extra_layers:
            layers += [nn.Conv2d(512, 100, 4, bias=False), nn.BatchNorm2d(100), nn.LeakyReLU(0.2)]
            layers += [nn.ConvTranspose2d(100, 512, 4, bias=False), nn.BatchNorm2d(512), nn.ReLU()]
        for entering in (512, 256, 128):
            layers += [nn.ConvTranspose2d(entering, entering // 2, 4, 2, 1, bias=False), nn.BatchNorm2d(entering // 2)]
            layers.append(nn.ReLU())
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Sigmoid())

    def forward(self, image: Tensor) -> Tensor:
        return self.main(image)
