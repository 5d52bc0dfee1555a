"""Bottleneck ResNets: the W+ encoder, the attribute predictor and the tagger.

Source: He et al., arXiv 1512.03385 (the stride is on the 3x3 convolution, as in the usual ResNet-50 weights). Parameter names
are the usual ones: conv1, bn1, layer{i}.{j}.conv{k}, .bn{k}, .downsample.{0,1}, fc.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to 4 x ``width``, each with batch norm, plus the input or its 1x1 projection."""

    def __init__(self, entering: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(entering, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        if stride != 1 or entering != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(entering, 4 * width, 1, stride=stride, bias=False), nn.BatchNorm2d(4 * width)
            )
        else:
            self.downsample = None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


# (blocks, width) of each stage.
Stages = Sequence[tuple[int, int]]
RESNET50: Stages = ((3, 64), (4, 128), (6, 256), (3, 512))


class ResNet(nn.Module):
    """7x7 stride 2, max pool, stages of bottlenecks (stride 2 from the second stage on), mean over the picture, ``fc``.

    stages: (blocks, width) of each; the stem is as wide as the first. Image [N, 3, H, W] -> [N, outputs].
    """

    def __init__(self, outputs: int, stages: Stages = RESNET50):
        super().__init__()
        entering = stages[0][1]
        self.conv1 = nn.Conv2d(3, entering, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(entering)
        self.stages = len(stages)
        for i, (blocks, width) in enumerate(stages):
            layers = []
            for block in range(blocks):
                layers.append(Bottleneck(entering, width, 2 if i > 0 and block == 0 else 1))
                entering = 4 * width
            self.add_module(f"layer{i + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(entering, outputs)

    def trunk(self, image: Tensor) -> Tensor:
        """Features [N, 4 * last width], averaged over the picture."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(image))), 3, stride=2, padding=1)
        for i in range(self.stages):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x.mean([2, 3])

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.trunk(image))


class Encoder(ResNet):
    """Anycost GAN's encoder: image [N, 3, size, size] in [-1, 1] -> w+ [N, n_style, style_dim].

    The network gives the distance to ``mean_latent``, the mean of w, which is a buffer of the checkpoint. size: the side in
    pixels of the pictures that it was trained on, which its weights do not tell.
    """

    def __init__(self, n_style: int = 18, style_dim: int = 512, stages: Stages = RESNET50, size: int = 256):
        super().__init__(n_style * style_dim, stages)
        self.n_style, self.style_dim, self.size = n_style, style_dim, size
        self.register_buffer("mean_latent", torch.zeros(style_dim))

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).reshape(-1, self.n_style, self.style_dim) + self.mean_latent


class AttributePredictor(ResNet):
    """Image [N, 3, size, size] in [-1, 1] -> logits [N, attributes, 2] (no, yes); size as of ``Encoder``.

    By default the published one: 40 attributes of CelebA in its own order, 256 px.
    """

    def __init__(self, attributes: int = 40, stages: Stages = RESNET50, size: int = 256):
        super().__init__(2 * attributes, stages)
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).reshape(image.shape[0], -1, 2)


class Tagger(ResNet):
    """DeepDanbooru's shape as it was used for cartoon faces: six stages, then one sigmoid a tag.

    Image [N, 3, R, R] in [0, 1], R 299 or 512 -> probabilities [N, tags].
    """

    STAGES = ((2, 64), (7, 128), (19, 256), (19, 256), (2, 512), (2, 1024))

    def __init__(self, tags: int):
        super().__init__(tags, self.STAGES)

    def forward(self, image: Tensor) -> Tensor:
        return torch.sigmoid(super().forward(image))


# CelebA's attributes in the order of its list, which is the order of the published predictor's outputs.
CELEBA = [
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
]
