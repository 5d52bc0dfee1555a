"""A small classifier of real digits, and what it says of generated ones.

Every figure is of 28 px, so that generators of other sizes are compared on the same ground. The judge is trained once, in half a
minute, and kept beside the data. Its Frechet distance has a scale of its own: it can be compared with that of other digits
under the same judge, never with an FID.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.digits.data import Digits, resized

SIDE = 28
CLASSES = 10
EPOCHS = 40
BATCH = 64
SHIFT = 2


class Judge(nn.Module):
    """image [N, 1, 28, 28] in [-1, 1] -> logits [N, 10]; ``features`` are the 64 numbers before the last layer's ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 48, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(48 * 16, 64),
        )
        self.last = nn.Linear(64, CLASSES)

    def features(self, image: Tensor) -> Tensor:
        return self.trunk(image)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.features(image).relu())


def train(digits: Digits, epochs: int = EPOCHS) -> Judge:
    """Of digits at 28 px, shifted by up to two pixels. The same for the same digits."""
    torch.manual_seed(0)
    judge = Judge()
    steps = epochs * math.ceil(len(digits) / BATCH)
    optimizer = torch.optim.Adam(judge.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(digits)).split(BATCH):
            down, right = torch.randint(2 * SHIFT + 1, (2,)).tolist()
            padded = F.pad(digits.images[rows], [SHIFT] * 4, value=-1.0)
            shifted = padded[..., down : down + SIDE, right : right + SIDE]
            loss = F.cross_entropy(judge(shifted), digits.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


def trained(folder: Path) -> Judge:
    """The judge beside the data of ``folder``; trained on its first use."""
    path = folder / "judge.pt"
    if not path.exists():
        temporary = path.with_suffix(f".{os.getpid()}.part")
        torch.save(train(Digits.load(folder)).state_dict(), temporary)
        os.replace(temporary, path)
    judge = Judge()
    judge.load_state_dict(torch.load(path, weights_only=True))
    return judge.eval()


@torch.no_grad()
def seen(judge: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """Images of any side in [-1, 1] -> features [N, 64], probabilities [N, 10]."""
    found = [judge.features(resized(part, SIDE)) for part in images.split(500)]
    features = torch.cat(found)
    return features, judge.last(features.relu()).softmax(1)


def entropy_bits(probabilities: Tensor) -> float:
    """Of how often each class is the likeliest one: log2(10) = 3.32 where all ten are equally frequent, 0 for a single one."""
    shares = torch.bincount(probabilities.argmax(1), minlength=CLASSES) / len(probabilities)
    return -sum(share * math.log2(share) for share in shares.tolist() if share)


def frechet(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of two sets of features [N, D] (arXiv 1706.08500).

    The trace of the root is the sum of the roots of the eigenvalues of S_a^(1/2) S_b S_a^(1/2), which is symmetric.
    """
    x, y = a.double().numpy(), b.double().numpy()
    s_a, s_b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, vectors = np.linalg.eigh(s_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    crossed = np.sqrt(np.linalg.eigvalsh(root @ s_b @ root).clip(0)).sum()
    found = float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s_a) + np.trace(s_b) - 2 * crossed)
    return max(found, 0.0)  # Rounding leaves a little less than nothing for a set and itself.


def figures(judge: Judge, images: Tensor, reference: Tensor) -> dict[str, float]:
    """Of images against reference pictures, both of the same side (what the size alone does cancels).

    confidence: mean probability of the likeliest class. sure: share of images where it exceeds 0.9. entropy_bits: how evenly
    the classes occur. fd_digits: ``frechet`` on the judge's features.
    """
    features, probabilities = seen(judge, images)
    likeliest = probabilities.max(1).values
    return {
        "confidence": round(likeliest.mean().item(), 4),
        "sure": round((likeliest > 0.9).float().mean().item(), 4),
        "entropy_bits": round(entropy_bits(probabilities), 3),
        "fd_digits": round(frechet(features, seen(judge, reference)[0]), 2),
    }


def accuracy(judge: Judge, digits: Digits) -> float:
    """Share of real digits that it names right."""
    return (seen(judge, digits.images)[1].argmax(1) == digits.labels).float().mean().item()
