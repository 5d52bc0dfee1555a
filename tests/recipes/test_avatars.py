"""The recipe's own steps on little data; the training itself is not a test."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from recipes.avatars import winner  # noqa: E402
from recipes.avatars.data import Blocks, Pictures, pyramid  # noqa: E402
from recipes.avatars.state import STYLE_DIM, Run  # noqa: E402
from recipes.avatars.train import train_step  # noqa: E402

BLOCKS = Blocks.load(ROOT / "recipes/avatars/attributes.json")


def test_a_label_gives_a_latent_that_has_it():
    labels = torch.stack([torch.randint(width, (500,)) for width in BLOCKS.widths], dim=1)
    z = BLOCKS.latents_for(labels, STYLE_DIM)
    assert torch.equal(BLOCKS.labels_of(z), labels)


def test_latents_of_uniform_labels_are_standard_normal():
    generator = torch.Generator().manual_seed(0)
    labels = torch.stack([torch.randint(width, (20_000,), generator=generator) for width in BLOCKS.widths], dim=1)
    z = BLOCKS.latents_for(labels, STYLE_DIM, generator)
    # 20 000 samples: a mean is within 0.007 of its value at one deviation, so 0.04 holds for all 256 coordinates.
    assert z.mean(0).abs().max() < 0.04 and (z.std(0) - 1).abs().max() < 0.04
    assert (torch.corrcoef(z.T) - torch.eye(STYLE_DIM)).abs().max() < 0.05


def test_the_built_mapping_picks_the_option_of_every_block():
    """Not by a linear map of z: the winner's coordinate of w is near 1 and the others' near 0 for most latents."""
    run = Run.start(torch.device("cpu"))
    winner.build(run.generator, BLOCKS)
    z = torch.randn(5000, STYLE_DIM, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        w = run.generator.mapping(z)
    labels = BLOCKS.labels_of(z)
    assert (BLOCKS.labels_of(w) == labels).float().mean() > 0.97
    won = torch.stack(
        [block.gather(1, label[:, None])[:, 0] for block, label in zip(BLOCKS.split(w), labels.T, strict=True)], 1
    )
    rest = (w[:, : BLOCKS.size].sum(1) - won.sum(1)) / (BLOCKS.size - len(BLOCKS.widths))
    assert won.mean() > 0.8 and rest.mean() < 0.1
    assert not w[:, BLOCKS.size :].any()


def test_pyramid_averages_boxes():
    image = torch.randn(1, 3, 64, 64)
    found = pyramid(image, (16, 32, 64))
    assert torch.allclose(found[16][0, 0, 0, 1], image[0, 0, :4, 4:8].mean(), atol=1e-6)
    assert found[64] is image


def test_folding_and_resuming_keep_the_function(tmp_path):
    run = Run.start(torch.device("cpu"))
    run.measure_styles()
    run.rate(1e-3)
    z, pictures = torch.randn(2, STYLE_DIM), torch.rand(2, 3, 64, 64)
    losses = train_step(run, z, pictures, 0.25)
    assert set(losses) == {"full", "narrow", "distilled"} and all(np.isfinite(value) for value in losses.values())
    run.average(0.5)
    run.step = 1
    folded = run.folded()
    expected = run.ema.synthesis(run.styles(z))
    found = folded.synthesis(folded.mapping(z)[:, None].expand(-1, 10, -1))
    assert (found - expected).abs().max() < 1e-4 * (expected.max() - expected.min())
    run.save(tmp_path / "checkpoint.pt")
    other = Run.start(torch.device("cpu"))
    other.load(tmp_path / "checkpoint.pt")
    assert other.step == 1
    assert all(torch.equal(a, b) for a, b in zip(other.folded().parameters(), folded.parameters(), strict=True))


@pytest.mark.skipif(
    not shutil.which("node") or not (ROOT / "recipes/avatars/node_modules").is_dir(),
    reason="npm ci was not run in recipes/avatars",
)
def test_renders_the_same_pictures_for_a_seed(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        command = [
            "node",
            "recipes/avatars/render.mjs",
            "--count",
            "4",
            "--seed",
            str(seed),
            "--out",
            str(tmp_path / name),
        ]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    a, b, c = (Pictures.load([tmp_path / name]) for name in "abc")
    assert a.images.shape == (4, 64, 64, 3) and len(np.unique(a.images)) > 50
    assert np.array_equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    assert not np.array_equal(a.images, c.images)
    assert all(int(a.labels[:, i].max()) < width for i, width in enumerate(BLOCKS.widths))


def test_attributes_name_each_slot():
    attributes = json.loads((ROOT / "recipes/avatars/attributes.json").read_text())["attributes"]
    assert sum(len(a["slots"]) for a in attributes) == BLOCKS.size <= STYLE_DIM
