"""Turning a run of roses.py into the two embedded translators, their sheet and their card."""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anycost.benchmarks.quality.features import avatar_features
from anycost.benchmarks.quality.frechet import frechet_distance, gaussian
from anycost.networks.gans_n_roses import GansNRoses
from anycost.weights.checkpoint import read_any
from anycost.weights.save import save
from recipes.avatars.roses import LATENT, SHAPE, SIZE, WAYS, Data, Pair, decode, figures, sheet
from recipes.avatars.ship import CREDITS, EMBEDDED
from recipes.track import Track

NAMES = {"a2b": "avatars-to-micah", "b2a": "micah-to-avatars"}
CARD = """# avatars-to-micah and micah-to-avatars: one content in many styles

{credit_a}
{credit_b}

| | |
|---|---|
| network | GANs N' Roses (arXiv 2106.06561), one file for each direction |
| shape | {size} px, style of {latent} numbers, content [N, {content}], channels {channels} |
| parameters | {parameters:.2f} million each; fp16, {bytes:.1f} MB together |
| data | {count} pictures of each style, and their translations, rendered by `recipes/avatars/render.mjs` |
| training | {steps} steps of {batch} pictures of each style; one CPU core |
| licence | Apache-2.0 for the weights as for the code; the credit lines above stay with them |

![Pictures, three random styles, and the style of the picture at the left; first from avataaars, then from micah]({name}.png)

## Recipe
`recipes/avatars/roses.py`. The paper trains on unpaired pictures, for days on a GPU; this pair was made in two hours on one
shared CPU core with what rendering allows: what a face looks like in the other manner and in another face's colours is known.
{paired} steps of regression to it at every resolution (content from a moved picture, style from another picture, styles kept
standard normal){both}. So *style* here is the colours of skin, hair, clothes and background, and *content* the face and its
pose.

## Figures
{held} held-out pictures, shipped fp16 weights. *PSNR* is to the rendered translation, in the style of another held-out
picture; *there and back* with the picture's own style; both in dB. *Style error* is the mean absolute error of a random style
found again, whose numbers are standard normal (0.80 is what knowing nothing gives); *diversity* the mean pyramid distance of
two translations of one picture; *{measure}* that between translations of held-out pictures in random styles and held-out
pictures of the style they should have, beside the same between training and held-out pictures (the least there can be) and of
the pictures left as they are (what translating has to beat). The features are those of `avatars-attributes`, which was trained
on avataaars alone.

| | PSNR | there and back | style error | diversity | {measure} | least | untranslated |
|---|--:|--:|--:|--:|--:|--:|--:|
{table}

## Limits
Drawings of these two styles only, with features that both can draw (`render.mjs --distinct`); a photograph gives a guess. Faces
are soft: eyes and mouths are small at 64 px, and regression answers with the mean of what it is not sure of. A style moves
background and hair surely and skin less: most random styles give brown skin. The style that a translation is in is hardly found
again in it (style error).
"""


def ship(args: argparse.Namespace) -> None:
    values = Track(args.out).load()
    if values is None:
        raise SystemExit(f"{args.out} holds no checkpoint: train first")
    pair = Pair.start()
    pair.load(values)
    for way, name in NAMES.items():
        metadata = {
            "network": "gans-n-roses",
            "arguments": json.dumps(SHAPE, sort_keys=True),
            "credit": f"{CREDITS['avataaars']} {CREDITS['micah']}",
            "recipe": "recipes/avatars",
        }
        tensors = {key: tensor.half() for key, tensor in pair.ema[way].state_dict().items()}
        save(EMBEDDED / f"{name}.safetensors", tensors, metadata)
    shipped = torch.nn.ModuleDict(
        {way: read_any(EMBEDDED / f"{name}.safetensors").module() for way, name in NAMES.items()}
    )
    data, held = Data.load(args, "train"), Data.load(args, "validation")
    rows = np.arange(len(held))
    pictures, training = held.batch(rows), data.batch(rows)
    found = figures(shipped, pictures)
    extractor = avatar_features()
    lines = []
    for way, x, wanted, train in (
        ("a2b", pictures.a, pictures.b, training.b),
        ("b2a", pictures.b, pictures.a, training.a),
    ):
        target = gaussian(extractor(_pixels(wanted)))
        distances = [
            frechet_distance(gaussian(extractor(_pixels(images))), target)
            for images in (_translated(shipped[way], x), train, x)
        ]
        cells = [f"{found[f'{way}_{key}']:.2f}" for key in ("psnr_db", "cycle_psnr_db", "style_error", "diversity")]
        lines.append(f"| `{NAMES[way]}` | " + " | ".join([*cells, *(f"{value:.1f}" for value in distances)]) + " |")
    sheet(EMBEDDED / f"{NAMES['a2b']}.png", shipped, pictures.a[:8], pictures.b[:8])
    network = shipped["a2b"]
    assert isinstance(network, GansNRoses)
    (EMBEDDED / f"{NAMES['a2b']}.md").write_text(
        CARD.format(
            credit_a=CREDITS["avataaars"],
            credit_b=CREDITS["micah"],
            name=NAMES["a2b"],
            size=SIZE,
            latent=LATENT,
            content=", ".join(map(str, network.content_shape)),
            channels=", ".join(f"{width} at {side} px" for side, width in network.channels.items()),
            parameters=sum(p.numel() for p in network.parameters()) / 1e6,
            bytes=sum((EMBEDDED / f"{name}.safetensors").stat().st_size for name in NAMES.values()) / 1e6,
            count=len(data),
            held=len(held),
            steps=pair.step,
            paired=min(args.paired_steps, pair.step),
            both=_stage_two(pair.step - args.paired_steps),
            batch=args.batch,
            measure=extractor.measure,
            table="\n".join(lines),
        )
    )
    print(f"wrote {', '.join(NAMES[way] for way in WAYS)}: {found}")


def _stage_two(steps: int) -> str:
    if steps <= 0:
        return "; the paper's own losses (`--paired-steps`) were not used for these weights"
    return (
        f", then {steps} steps with the paper's losses beside it: discriminators that see a picture in several styles, there and "
        "back, a random style found again"
    )


@torch.no_grad()
def _translated(network: GansNRoses, x: Tensor) -> Tensor:
    """Every picture in a style of its own."""
    z = torch.randn(len(x), LATENT, generator=torch.Generator().manual_seed(11))
    return torch.cat(
        [decode(network, network.encode(some)[0], style) for some, style in zip(x.split(50), z.split(50), strict=True)]
    )


def _pixels(images: Tensor) -> np.ndarray:
    """[N, 3, R, R] in [-1, 1] -> uint8 [N, 2 R, 2 R, 3], as large as the features' network takes them."""
    large = F.interpolate(images.clamp(-1, 1), scale_factor=2, mode="bilinear", align_corners=False)
    return large.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
