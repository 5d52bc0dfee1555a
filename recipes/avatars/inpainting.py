"""The embedded inpainting model: python -m recipes.avatars.inpainting train|ship --data DIR [DIR ...] --out DIR

A narrow context encoder (after arXiv 1604.07379) learns to fill holes in rendered avatars of 128 px. What it sees is what the
runtime shows it: x (1 - M) + M c with c = 0, the middle gray. What it answers is a patch of 64 px that covers the mask's
bounding box, so the target is that part of the picture at 64 px. Masks are the runtime's own three kinds.

The loss is L1 on the patch, the hidden pixels above all; in the last three tenths of the steps the adversarial loss joins it
with 1/500 of its weight (with 1/100, which is usual, faces came out speckled). The discriminator sees the patch with its known
pixels put back, under noise.
``ship`` writes the weights of the running average as fp16, the card, and a sheet. Stops and resumes at any moment.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anycost.networks.context_encoder import ContextEncoder, PatchDiscriminator
from anycost.networks.registry import BY_NAME
from anycost.runtime.manifest import NetworkRecord
from anycost.runtime.masks import Mask, Pixels, bounding_box, brush_strokes, central_box, paste, random_boxes
from anycost.runtime.parity import ssim
from anycost.runtime.pipelines.inpaint import inpaint
from recipes.avatars.data import Pictures
from recipes.track import Track

KIND = "context-encoder"
FEATURES = 16
SIDE, PATCH = ContextEncoder.size, ContextEncoder.patch
BATCH = 32
STEPS = 8000
RATE, RATE_OF_JUDGE = 1e-3, 1e-4
ADVERSARIAL_FROM, ADVERSARIAL = 0.7, 0.002
NOISE = 0.2  # Added to what the discriminator sees: without it, it soon answers every patch with certainty.
SETTLING = 60  # Batches that batch-norm statistics are measured on.
# Known pixels of a patch are pasted over: they are learnt a little, so that what is beside them fits.
KNOWN = 0.1
MASKS = {"central box": 0.2, "random box": 0.4, "free form": 0.4}


def mask_of(kind: str, seed: int, boxes: int = 1) -> Mask:
    """bool [SIDE, SIDE] of one of the runtime's kinds."""
    if kind == "central box":
        return central_box(SIDE, SIDE)
    return random_boxes(SIDE, SIDE, boxes, seed) if kind == "random box" else brush_strokes(SIDE, SIDE, seed)


def cut(x: Tensor, masks: np.ndarray) -> Tensor:
    """[N, C, SIDE, SIDE] and bool [N, SIDE, SIDE] -> what lies in each mask's bounding box, [N, C, PATCH, PATCH]."""
    found = []
    for image, mask in zip(x, masks, strict=True):
        left, top, width, height = bounding_box(mask)
        part = image[None, :, top : top + height, left : left + width]
        found.append(F.interpolate(part, size=(PATCH, PATCH), mode="bilinear", antialias=True))
    return torch.cat(found)


class Run:
    """Networks, the running average, optimizers and the number of steps taken. Step n is the same whenever it is taken."""

    def __init__(self, features: int = FEATURES):
        torch.manual_seed(0)
        self.step, self.features = 0, features
        self.network = ContextEncoder(features).to(memory_format=torch.channels_last)
        self.judge = PatchDiscriminator(features).to(memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE, betas=(0.5, 0.999))
        self.of_judge = torch.optim.Adam(self.judge.parameters(), lr=RATE_OF_JUDGE, betas=(0.5, 0.999))
        self._parts = ("network", "judge", "ema", "optimizer", "of_judge")

    def state(self) -> dict[str, Any]:
        return {"step": self.step} | {name: getattr(self, name).state_dict() for name in self._parts}

    def load(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        for name in self._parts:
            getattr(self, name).load_state_dict(state[name])

    def train_step(self, pictures: Pictures, steps: int, batch: int = BATCH) -> dict[str, float]:
        """One step of ``steps``; returns its losses."""
        torch.manual_seed(self.step + 1)
        x, masks = drawn(pictures, np.random.RandomState(self.step + 1), batch)
        hidden = torch.from_numpy(masks)[:, None].float()
        target, inside = cut(x, masks), cut(hidden, masks)
        adversarial = self.step >= ADVERSARIAL_FROM * steps
        progress = self.step / steps
        warm, cosine = min(1.0, (self.step + 1) / 100), 0.5 + 0.5 * math.cos(math.pi * progress)
        self.optimizer.param_groups[0]["lr"] = RATE * warm * (0.01 + 0.99 * cosine)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            patch = self.network((x * (1 - hidden)).contiguous(memory_format=torch.channels_last)).float()
        weights = KNOWN + (1 - KNOWN) * inside
        loss = (weights * (patch - target).abs()).sum() / (3 * weights.sum())
        found = {"l1": loss.item()}
        if adversarial:
            # Known pixels are put back first: those at the hole's edge are the judge's best hint of a seam.
            filled = patch * inside + target * (1 - inside)
            found["judge"] = self.judge_step(target, filled.detach())
            self.judge.requires_grad_(False)
            fooled = self.believed(filled, 1.0)
            self.judge.requires_grad_(True)
            found["adversarial"] = fooled.item()
            loss = loss + ADVERSARIAL * fooled
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        keep = min(0.999, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.ema.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value.detach(), 1 - keep)
        return found

    def judge_step(self, real: Tensor, filled: Tensor) -> float:
        loss = self.believed(real, 1.0) + self.believed(filled, 0.0)
        self.of_judge.zero_grad()
        loss.backward()
        self.of_judge.step()
        return loss.item()

    def believed(self, patch: Tensor, wanted: float) -> Tensor:
        """Cross entropy of the discriminator's probabilities for noisy patches with what they should be."""
        patch = patch + NOISE * torch.randn_like(patch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            probability = self.judge(patch.contiguous(memory_format=torch.channels_last)).float()
        probability = probability.clamp(1e-4, 1 - 1e-4)
        return F.binary_cross_entropy(probability, torch.full_like(probability, wanted))

    @torch.no_grad()
    def settled(self, pictures: Pictures) -> ContextEncoder:
        """The average of the weights, in evaluation mode, with batch-norm statistics measured for that average."""
        network = copy.deepcopy(self.ema).train()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None  # A plain mean over all the batches that follow.
            elif isinstance(layer, nn.Dropout):
                layer.eval()
        state = np.random.RandomState(0)
        for _ in range(SETTLING):
            x, masks = drawn(pictures, state, BATCH)
            network(x * ~torch.from_numpy(masks)[:, None])
        return network.eval()


def drawn(pictures: Pictures, state: np.random.RandomState, batch: int) -> tuple[Tensor, np.ndarray]:
    """Pictures [N, 3, SIDE, SIDE] in [-1, 1] and a mask for each, of the kinds in MASKS with their shares."""
    x, _ = pictures.batch(state.randint(len(pictures), size=batch), SIDE)
    kinds = state.choice(list(MASKS), size=batch, p=list(MASKS.values()))
    boxes = state.choice([1, 1, 1, 2, 3], size=batch)
    seeds = state.randint(2**31, size=batch)
    return x, np.stack([mask_of(*each) for each in zip(kinds, seeds.tolist(), boxes.tolist(), strict=True)])


class Loaded:
    """A network where the runtime expects one of a bundle, so that pictures are filled by the runtime's own code."""

    def __init__(self, network: nn.Module):
        self.network = network
        (part,) = BY_NAME[KIND].parts(network)
        ports = [
            [{"name": p.name, "shape": p.shape, "values": p.values} for p in q] for q in (part.inputs, part.outputs)
        ]
        self.record = NetworkRecord(
            name=KIND,
            kind=KIND,
            arguments={},
            labels=(),
            source="recipe",
            source_sha256="0" * 64,
            parameters=sum(p.numel() for p in network.parameters()),
            weights="weights.safetensors",
            parts=[{"name": KIND, "inputs": ports[0], "outputs": ports[1], "macs": 0}],
        )

    def run(self, part: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        del part  # It has one only.
        with torch.no_grad():
            return {"patch": self.network(torch.from_numpy(inputs["image"])).numpy()}


def border_fill(image: Pixels, mask: Mask) -> Pixels:
    """The baseline: the mean colour of the known pixels that touch the hole, everywhere in it."""
    padded = np.pad(mask, 1)
    near = np.any([padded[y : y + SIDE, x : x + SIDE] for y in range(3) for x in range(3)], axis=0)
    colour = image[near & ~mask].mean(axis=0).round().astype(np.uint8)
    return paste(image, np.broadcast_to(colour, image.shape), mask)


def figures(network: nn.Module, pictures: np.ndarray) -> dict[str, dict[str, dict[str, float]]]:
    """By mask kind and method, of pictures uint8 [N, SIDE, SIDE, 3] with one mask each, values scaled to 0..1.

    Of the whole picture after pasting: psnr_db of the mean squared error over all of them, ssim, mae, rmse. mae_in_hole: of
    the hidden pixels alone.
    """
    loaded, found = Loaded(network), {}
    for kind in MASKS:
        masks = np.stack([mask_of(kind, seed) for seed in range(len(pictures))])
        pairs = list(zip(pictures, masks, strict=True))
        found[kind] = {
            "network": measured(np.stack([inpaint(loaded, *pair) for pair in pairs]), pictures, masks),
            "border fill": measured(np.stack([border_fill(*pair) for pair in pairs]), pictures, masks),
        }
    return found


def measured(filled: np.ndarray, pictures: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """uint8 [N, H, W, 3] twice and bool [N, H, W] -> the figures of ``figures``."""
    absolute = squared = hidden = similar = 0.0
    for x, y, mask in zip(filled / np.float32(255), pictures / np.float32(255), masks, strict=True):
        error = np.abs(x - y)
        absolute += float(error.mean())
        squared += float((error**2).mean())
        hidden += float(error[mask].sum())
        similar += ssim(x.transpose(2, 0, 1)[None], y.transpose(2, 0, 1)[None], 1.0)
    count = len(pictures)
    return {
        "psnr_db": round(10 * math.log10(count / max(squared, 1e-20)), 2),
        "ssim": round(similar / count, 4),
        "mae": round(absolute / count, 4),
        "rmse": round(math.sqrt(squared / count), 4),
        "mae_in_hole": round(hidden / (3 * int(masks.sum())), 4),
    }


def train(args: argparse.Namespace) -> None:
    # Not at the top: it imports this module.
    from recipes.avatars.inpainting_ship import write_sheet

    pictures, held_out = Pictures.load(args.data), Pictures.load(args.data[:1], "validation")
    shown = held_out.pixels(np.arange(min(48, len(held_out))))
    track = Track(args.out, args.minutes)
    run = Run()
    if saved := track.load():
        run.load(saved)

    def report() -> None:
        network = run.settled(pictures)
        values = {kind: by["network"]["psnr_db"] for kind, by in figures(network, shown).items()}
        track.log(step=run.step, psnr_db=values)
        write_sheet(args.out / "sheet.png", network, shown[:10])

    sums: dict[str, float] = {}
    reported = last = time.monotonic()
    while run.step < args.steps and not track.expired:
        for name, value in run.train_step(pictures, args.steps).items():
            sums[name] = sums.get(name, 0.0) + value / 100
        if run.step % 100 == 0:
            now = time.monotonic()
            track.log(step=run.step, ms_a_step=round(10 * (now - last), 1), **{k: round(v, 4) for k, v in sums.items()})
            sums, last = {}, now
        if track.due:
            track.save(run.state())
        if time.monotonic() - reported > 120:
            report()
            reported = last = time.monotonic()
    track.save(run.state())
    report()


EMBEDDED = Path(__file__).parents[2] / "weights" / "embedded"


def ship(run: Run, pictures: Pictures, held_out: Pictures, folder: Path, count: int = 1000) -> None:
    """Writes folder/avatars-inpainting.safetensors, .png and .md."""
    # Not at the top: it imports this module.
    from recipes.avatars import inpainting_ship

    inpainting_ship.ship(run, pictures, held_out, folder, count)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "ship"])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders written by render.mjs")
    parser.add_argument("--out", type=Path, required=True, help="the run's checkpoint, log and sheet")
    parser.add_argument("--steps", type=int, default=STEPS, help="the learning rate falls towards their end")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop, with a checkpoint, after this long")
    args = parser.parse_args(arguments)
    if args.what == "train":
        train(args)
        return
    saved = Track(args.out).load()
    if not saved:
        raise SystemExit(f"{args.out} holds no checkpoint: train first")
    run = Run()
    run.load(saved)
    ship(run, Pictures.load(args.data), Pictures.load(args.data[:1], "validation"), EMBEDDED)


if __name__ == "__main__":
    main()
