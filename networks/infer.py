"""Arguments of each kind of network from the names and shapes of a checkpoint's tensors."""

from __future__ import annotations

from math import isqrt

from anycost.networks.channels import BASE_CHANNELS, Architecture
from anycost.networks.kinds import Arguments, Shapes


def count(shapes: Shapes, pattern: str, start: int = 0) -> int:
    """How many of pattern.format(start), pattern.format(start + 1), ... there are without a gap."""
    found = 0
    while pattern.format(start + found) in shapes:
        found += 1
    return found


def encoder(shapes: Shapes) -> Arguments:
    style_dim = shapes["mean_latent"][0]
    return {"n_style": shapes["fc.weight"][0] // style_dim, "style_dim": style_dim, "stages": _stages(shapes)}


def attributes(shapes: Shapes) -> Arguments:
    return {"attributes": shapes["fc.weight"][0] // 2, "stages": _stages(shapes)}


def _stages(shapes: Shapes) -> list[tuple[int, int]]:
    """(blocks, width) of each stage of a bottleneck ResNet."""
    stages = count(shapes, "layer{}.0.conv1.weight", start=1)
    return [
        (count(shapes, f"layer{i}.{{}}.conv1.weight"), shapes[f"layer{i}.0.conv1.weight"][0])
        for i in range(1, stages + 1)
    ]


def discriminator(shapes: Shapes) -> Arguments:
    blocks = count(shapes, "convs.{}.conv1.0.weight", start=1)
    widths = [shapes[f"convs.{i + 1}.conv2.1.weight"][0] for i in range(blocks)]
    return _pyramid([shapes["convs.0.0.weight"][0], *widths])


def multi_resolution_discriminator(shapes: Shapes) -> Arguments:
    blocks = count(shapes, "blocks.{}.conv1.0.weight")
    widths = [shapes[f"blocks.{i}.conv2.1.weight"][0] for i in range(blocks)]
    return _pyramid([shapes["convs.0.0.weight"][0], *widths]) | {
        "n_res": count(shapes, "convs.{}.0.weight"),
        "modulate": any(".weight_mapping." in name for name in shapes),
    }


def _pyramid(widths: list[int]) -> Arguments:
    """Resolution, multiplier and cap that give these widths, the highest resolution first and 4 px last."""
    resolution = 4 << (len(widths) - 1)
    sides = {resolution >> i: width for i, width in enumerate(widths)}
    for multiplier in [2.0, *sorted({width / BASE_CHANNELS[side] for side, width in sides.items()})]:
        for channel_max in (512, max(widths)):
            arch = Architecture(resolution, multiplier, channel_max)
            if all(arch.width(side) == width for side, width in sides.items()):
                return {"resolution": resolution, "channel_multiplier": multiplier, "channel_max": channel_max}
    # Of no regular shape: checking the tensors will name the first that differs.
    return {"resolution": resolution}


def gans_n_roses(shapes: Shapes) -> Arguments:
    blocks = count(shapes, "encoder.stem.{}.conv1.0.weight", start=1)
    # Halving blocks blur first, which makes their second convolution element 1 of its sequence.
    num_down = sum(f"encoder.stem.{i}.conv2.1.weight" in shapes for i in range(1, blocks + 1))
    halvings = count(shapes, "encoder.style.{}.1.weight")
    size = 4 << (num_down + halvings)
    widths = [shapes["encoder.stem.0.0.weight"][0]]
    widths += [shapes[f"encoder.stem.{i}.conv2.1.weight"][0] for i in range(1, num_down + 1)]
    widths += [shapes[f"encoder.style.{i}.1.weight"][0] for i in range(halvings)]
    return {
        "size": size,
        "num_down": num_down,
        "latent_dim": shapes["mapping.0.weight"][1],
        "n_mlp": count(shapes, "mapping.{}.weight"),
        "style_dim": shapes["mapping.0.weight"][0],
        "n_res": blocks - num_down,
        "channels": {size >> i: width for i, width in enumerate(widths)},
    }


def context_encoder(shapes: Shapes) -> Arguments:
    return {"features": shapes["enc1.0.weight"][0]}


def dcgan(shapes: Shapes) -> Arguments:
    features, channels = shapes["main.12.weight"][:2]
    return {"nz": shapes["main.0.weight"][0], "features": features, "channels": channels}


def mnist_cnn(shapes: Shapes, prefix: str = "") -> Arguments:
    return {"nz": shapes[f"{prefix}fc.weight"][1], "features": shapes[f"{prefix}up1.weight"][0]}


def cyclegan(shapes: Shapes) -> Arguments:
    return {
        "features": shapes["model.1.weight"][0],
        "blocks": count(shapes, "model.{}.conv_block.1.weight", start=10),
    }


def discogan(shapes: Shapes) -> Arguments:
    return {"extra_layers": shapes.get("main.11.weight", (0,))[0] == 100}


def stylegan1(shapes: Shapes) -> Arguments:
    return {
        "code_dim": shapes["style.1.linear.weight_orig"][1],
        "n_mlp": sum(name.startswith("style.") and name.endswith(".bias") for name in shapes),
        "blocks": count(shapes, "generator.to_rgb.{}.conv.bias"),
    }


def transgan(shapes: Shapes) -> Arguments:
    depth = [count(shapes, "blocks.block.{}.norm1.norm.weight")]
    depth += [count(shapes, f"upsample_blocks.{i}.block.{{}}.norm1.norm.weight") for i in range(2)]
    _, positions, dim = shapes["pos_embed_1"]
    return {"dim": dim, "depth": depth, "latent_dim": shapes["l1.weight"][1], "width": isqrt(positions)}
