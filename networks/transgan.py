"""TransGAN's generator: transformer blocks at 8, 16 and 32 px with pixel shuffles between, no convolution but the last 1x1.

Source: Jiang et al., arXiv 2102.07074. Parameter names are those of the authors' ViT_custom.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Norm(nn.Module):
    """The authors wrap their layer norm, which is why its parameters are called norm.weight and norm.bias."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, positions, dim = x.shape
        qkv = self.qkv(x).reshape(n, positions, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) * (dim // self.heads) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, positions, dim))


class _Mlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1 = _Norm(dim)
        self.attn = _Attention(dim, heads)
        self.norm2 = _Norm(dim)
        self.mlp = _Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Stage(nn.Module):
    def __init__(self, depth: int, dim: int, heads: int):
        super().__init__()
        self.block = nn.ModuleList(_Block(dim, heads) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class TransGan(nn.Module):
    """z [N, latent_dim], standard normal -> image [N, 3, 32, 32], nominally in [-1, 1].

    dim: channels at 8 px; a quarter at 16 px and a sixteenth at 32 px. depth: blocks of the three stages.
    Raises ValueError for a dim that the heads do not divide.
    """

    def __init__(
        self, dim: int = 384, depth: Sequence[int] = (5, 2, 2), latent_dim: int = 256, heads: int = 4, width: int = 8
    ):
        super().__init__()
        if dim < 16 * heads or dim % (16 * heads):
            raise ValueError(
                f"dim {dim} is no multiple of 16 x {heads} heads, as the third stage has dim / 16 channels"
            )
        self.dim, self.width, self.latent_dim = dim, width, latent_dim
        self.l1 = nn.Linear(latent_dim, width**2 * dim)
        self.pos_embed_1 = nn.Parameter(torch.zeros(1, width**2, dim))
        self.pos_embed_2 = nn.Parameter(torch.zeros(1, (2 * width) ** 2, dim // 4))
        self.pos_embed_3 = nn.Parameter(torch.zeros(1, (4 * width) ** 2, dim // 16))
        self.blocks = _Stage(depth[0], dim, heads)
        self.upsample_blocks = nn.ModuleList(
            [_Stage(depth[1], dim // 4, heads), _Stage(depth[2], dim // 16, heads)],
        )
        self.deconv = nn.Sequential(nn.Conv2d(dim // 16, 3, 1))

    def forward(self, z: Tensor) -> Tensor:
        side = self.width
        x = self.blocks(self.l1(z).reshape(-1, side**2, self.dim) + self.pos_embed_1)
        for stage, embedding in zip(self.upsample_blocks, (self.pos_embed_2, self.pos_embed_3), strict=True):
            picture = F.pixel_shuffle(x.transpose(1, 2).reshape(-1, x.shape[2], side, side), 2)
            side *= 2
            x = stage(picture.flatten(2).transpose(1, 2) + embedding)
        return self.deconv(x.transpose(1, 2).reshape(-1, self.dim // 16, side, side))
