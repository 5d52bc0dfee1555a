"""Context encoders for inpainting, and the discriminator they were trained against.

Sources: Pathak et al., arXiv 1604.07379 (the form without skips); the form with skips and the attention discriminator are
those of a later improvement of it, whose parameter names (enc1..5, bottleneck, dec1..5, layer1..5, attention) are kept.
Attention: SAGAN, arXiv 1805.08318.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _down(entering: int, leaving: int, norm: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(entering, leaving, 4, stride=2, padding=1, bias=False)]
    if norm:
        layers.append(nn.BatchNorm2d(leaving))
    return nn.Sequential(*layers, nn.LeakyReLU(0.2))


def _up(entering: int, leaving: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(entering, leaving, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(leaving), nn.ReLU()
    )


def _last(entering: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(entering, 3, 4, stride=2, padding=1, bias=False), nn.Tanh())


class ContextEncoder(nn.Module):
    """Masked image [N, 3, 128, 128] in [-1, 1] -> what belongs in the hole [N, 3, 64, 64] in [-1, 1].

    Five stride-2 convolutions (f, f, 2f, 4f, 8f channels for f = ``features``), a 4x4 bottleneck to 32f numbers, and
    transposed convolutions back with the encoder's outputs e5, e4, e3, e2 concatenated. Published with 64 features.
    """

    size, patch = 128, 64

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        f, deep, code = features, 8 * features, 32 * features
        self.enc1 = _down(3, f, norm=False)
        self.enc2 = _down(f, f)
        self.enc3 = _down(f, 2 * f)
        self.enc4 = _down(2 * f, 4 * f)
        self.enc5 = _down(4 * f, deep)
        self.bottleneck = nn.Sequential(nn.Conv2d(deep, code, 4, bias=False), nn.BatchNorm2d(code), nn.LeakyReLU(0.2))
        self.dec1 = nn.Sequential(
            nn.ConvTranspose2d(code, deep, 4, bias=False), nn.BatchNorm2d(deep), nn.ReLU(), nn.Dropout(0.2)
        )
        self.dec2 = _up(2 * deep, 4 * f)
        self.dec3 = _up(8 * f, 2 * f)
        self.dec4 = _up(4 * f, f)
        self.dec5 = _last(2 * f)

    def forward(self, masked: Tensor) -> Tensor:
        e2 = self.enc2(self.enc1(masked))
        e3 = self.enc3(e2)
        e4 = self.enc4(e3)
        e5 = self.enc5(e4)
        x = self.dec1(self.bottleneck(e5))
        x = self.dec2(torch.cat([x, e5], 1))
        x = self.dec3(torch.cat([x, e4], 1))
        x = self.dec4(torch.cat([x, e3], 1))
        return self.dec5(torch.cat([x, e2], 1))


class CentralContextEncoder(nn.Module):
    """Masked image [N, 3, 256, 256] in [-1, 1] -> its central [N, 3, 128, 128] in [-1, 1], without skips.

    One stride-2 convolution more than the 128 px form, the bottleneck, and five transposed convolutions from 4 px to 128.
    """

    size, patch = 256, 128

    def __init__(self, bottleneck: int = 4000) -> None:
        super().__init__()
        self.enc1 = _down(3, 64, norm=False)
        self.enc2 = _down(64, 64)
        self.enc3 = _down(64, 128)
        self.enc4 = _down(128, 256)
        self.enc5 = _down(256, 512)
        self.enc6 = _down(512, 512)
        self.bottleneck = nn.Sequential(
            nn.Conv2d(512, bottleneck, 4, bias=False), nn.BatchNorm2d(bottleneck), nn.LeakyReLU(0.2)
        )
        self.dec1 = nn.Sequential(nn.ConvTranspose2d(bottleneck, 512, 4, bias=False), nn.BatchNorm2d(512), nn.ReLU())
        self.dec2 = _up(512, 256)
        self.dec3 = _up(256, 128)
        self.dec4 = _up(128, 64)
        self.dec5 = _up(64, 64)
        self.dec6 = _last(64)

    def forward(self, masked: Tensor) -> Tensor:
        x = masked
        for layer in (self.enc1, self.enc2, self.enc3, self.enc4, self.enc5, self.enc6, self.bottleneck):
            x = layer(x)
        for layer in (self.dec1, self.dec2, self.dec3, self.dec4, self.dec5, self.dec6):
            x = layer(x)
        return x


class SelfAttention(nn.Module):
    """x + gamma * attention(x) over all positions of [N, C, H, W]; gamma starts at 0."""

    def __init__(self, channels: int):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (conv(x).flatten(2) for conv in (self.query_conv, self.key_conv, self.value_conv))
        weights = F.softmax(query.transpose(1, 2) @ key, dim=-1)
        return x + self.gamma * (value @ weights.transpose(1, 2)).reshape(x.shape)


class PatchDiscriminator(nn.Module):
    """PatchGAN with self-attention after the second layer: image [N, 3, R, R] in [-1, 1] -> probability of being real
    of each patch, [N, 1, R / 16 - 3, R / 16 - 3]. R is 64 in training (one number an image). Published with 64 features,
    at least 4: the attention's queries have a quarter of them."""

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        f = features
        self.layer1 = _down(3, f, norm=False)
        self.layer2 = nn.Sequential(*_down(f, 2 * f), nn.Dropout2d(0.25))
        self.attention = SelfAttention(2 * f)
        self.layer3 = _down(2 * f, 4 * f)
        self.layer4 = _down(4 * f, 8 * f)
        self.layer5 = nn.Conv2d(8 * f, 1, 4, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        x = self.layer3(self.attention(self.layer2(self.layer1(image))))
        return torch.sigmoid(self.layer5(self.layer4(x)))
