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

from anycost.networks.stylegan2 import Generator  # noqa: E402
from recipes.avatars import adversarial, contact, winner  # noqa: E402
from recipes.avatars.data import Blocks, Pictures, pyramid  # noqa: E402
from recipes.avatars.importance import order_channels  # noqa: E402
from recipes.avatars.state import STYLE_DIM, Run  # noqa: E402
from recipes.avatars.train import answers, train_step  # noqa: E402

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
    run = Run.start(torch.device("cpu"), 64)
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
    run = Run.start(torch.device("cpu"), 64)
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
    torch.save(run.values(), tmp_path / "checkpoint.pt")
    other = Run.start(torch.device("cpu"), 64)
    other.load(tmp_path / "checkpoint.pt")
    assert other.step == 1
    assert all(torch.equal(a, b) for a, b in zip(other.folded().parameters(), folded.parameters(), strict=True))


def test_a_run_grows_from_one_of_a_lower_resolution(tmp_path):
    small, other = Run.start(torch.device("cpu"), 32), Run.start(torch.device("cpu"), 64)
    small.measure_styles()
    torch.save(small.values(), tmp_path / "checkpoint.pt")
    assert other.begin_from(tmp_path / "checkpoint.pt")
    w = other.styles(torch.randn(2, STYLE_DIM))
    found = other.generator.synthesis(w, all_images=True)
    expected = small.generator.synthesis(w[:, :8], all_images=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=False))
    assert len(found) == len(expected) + 1
    with pytest.raises(SystemExit, match="no generator of this shape at 16 px or below"):
        Run.start(torch.device("cpu"), 16).begin_from(tmp_path / "checkpoint.pt")
    with pytest.raises(SystemExit, match="is of 32 px"):
        other.load(tmp_path / "checkpoint.pt")


def test_sorting_channels_keeps_the_full_function_and_puts_the_important_first():
    torch.manual_seed(0)
    generator = Generator(32, 0.03125, 24, 16)
    with torch.no_grad():
        # Channels of very different weight for what reads them, in a random order.
        for layer in generator.convs:
            layer.conv.weight.mul_(torch.rand(layer.conv.weight.shape[2]).exp()[:, None, None] ** 3)
            layer.noise.weight.fill_(0.1)
    w = torch.randn(4, 8, 16)
    with torch.no_grad():
        before = generator.synthesis(w)
        permutations = order_channels(generator)
        # float32 sums in another order.
        assert (generator.synthesis(w) - before).abs().max() < 1e-4 * (before.max() - before.min())
        assert len(permutations) == 8 and any((order != torch.arange(len(order))).any() for order in permutations)
        reader = generator.convs[1].conv
        sizes = reader.weight.abs().sum([0, 1, 3, 4]) * reader.modulation.bias.abs()
        assert (sizes.diff() <= 1e-4 * sizes.max()).all()
        again = order_channels(generator)
    assert all(torch.equal(order, torch.arange(len(order))) for order in again)


def test_an_adversarial_step_changes_both_networks_and_resumes():
    run = Run.start(torch.device("cpu"), 32)
    run.measure_styles()
    run.rate(1e-3)
    adversary = adversarial.Adversary(run, torch.device("cpu"))
    z, pictures = torch.randn(4, STYLE_DIM), torch.rand(4, 3, 32, 32)
    before = [p.detach().clone() for p in (*run.generator.parameters(), *adversary.network.parameters())]
    fake = answers(run, run.styles(z), 0.5)[16].detach()
    assert np.isfinite(adversary.step(pictures[:, :, ::2, ::2], fake, 0.5))
    assert np.isfinite(adversary.regularise(pictures, 0.5))
    losses = adversarial.generator_step(run, adversary, z, pictures, 0.5, 32, 0.5)
    assert set(losses) == {"full", "narrow", "distilled", "fooling"}
    assert adversarial.path_step(run, adversary, z) > 0 and adversary.path_mean > 0
    after = [*run.generator.parameters(), *adversary.network.parameters()]
    moved = sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    # All but the mapping's (16) and the 128 and 64 px inputs that this size does not have.
    assert moved >= len(before) - 16 - 4
    other = adversarial.Adversary(run, torch.device("cpu"))
    other.load(adversary.values())
    assert torch.equal(other.logits(pictures, 1.0), adversary.logits(pictures, 1.0))


NODE = pytest.mark.skipif(
    not shutil.which("node") or not (ROOT / "recipes/avatars/node_modules").is_dir(),
    reason="npm ci was not run in recipes/avatars",
)


def render(*arguments):
    command = ["node", "recipes/avatars/render.mjs", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@NODE
def test_renders_the_same_pictures_for_a_seed(tmp_path):
    for name, more in (("a", ["--seed", 5]), ("b", ["--seed", 5, "--validation", 3]), ("c", ["--seed", 6])):
        assert render("--count", 4, "--size", 64, *more, "--out", tmp_path / name).returncode == 0
    a, b, c = (Pictures.load([tmp_path / name]) for name in "abc")
    rows = np.arange(4)
    assert a.pixels(rows).shape == (4, 64, 64, 3) and len(np.unique(a.pixels(rows))) > 50
    assert np.array_equal(a.pixels(rows), b.pixels(rows)) and torch.equal(a.labels, b.labels)
    assert not np.array_equal(a.pixels(rows), c.pixels(rows))
    assert all(int(a.labels[:, i].max()) < width for i, width in enumerate(BLOCKS.widths))
    held = Pictures.load([tmp_path / "b"], "validation")
    assert len(held) == 3 and not torch.equal(held.labels, b.labels[:3])
    assert len(Pictures.load([tmp_path / "a", tmp_path / "c"])) == 8
    with pytest.raises(SystemExit, match="holds no pictures"):
        Pictures.load([tmp_path / "a"], "validation")


@NODE
def test_styles_draw_the_same_people_and_a_wrong_one_is_refused(tmp_path):
    for style in ("avataaars", "micah"):
        assert render("--count", 3, "--size", 32, "--style", style, "--out", tmp_path / style).returncode == 0
    a, b = (Pictures.load([tmp_path / style]) for style in ("avataaars", "micah"))
    assert torch.equal(a.labels, b.labels)
    # Other drawings, but the corners show the same background colour.
    assert not np.array_equal(a.pixels(np.arange(3)), b.pixels(np.arange(3)))
    assert np.array_equal(a.pixels(np.arange(3))[:, 0, 0], b.pixels(np.arange(3))[:, 0, 0])
    for wrong in (["--style", "photo"], ["--count", "0"], ["--size", "-4"], ["--colour", "red"]):
        refused = render("--out", tmp_path / "no", *wrong)
        assert refused.returncode == 2 and refused.stderr.startswith("render: ") and "    at " not in refused.stderr
    assert not (tmp_path / "no").exists()


@NODE
def test_a_contact_sheet_shows_every_folder(tmp_path):
    for style in ("avataaars", "micah"):
        assert render("--count", 16, "--size", 32, "--style", style, "--out", tmp_path / style).returncode == 0
    found = contact.sheet([tmp_path / "avataaars", tmp_path / "micah"])
    assert found.size == (1024, 2 * (2 * 128 + 46))


def test_attributes_name_each_slot():
    attributes = json.loads((ROOT / "recipes/avatars/attributes.json").read_text())["attributes"]
    assert sum(len(a["slots"]) for a in attributes) == BLOCKS.size <= STYLE_DIM
