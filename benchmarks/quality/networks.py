"""How good the networks beside the generator are, where there is a measure for their kind: translators in many styles, context
encoders, and encoders of the bundle's own generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anycost.benchmarks.quality.consistency import consistency
from anycost.benchmarks.quality.data import Pictures
from anycost.benchmarks.quality.features import AvatarFeatures, Extractor
from anycost.benchmarks.quality.frechet import Gaussian, gaussian
from anycost.benchmarks.quality.inpainting import inpainting
from anycost.benchmarks.quality.pairs import Distance, pairwise
from anycost.benchmarks.quality.sources import Source
from anycost.benchmarks.quality.tools import Tools
from anycost.benchmarks.quality.translation import translation
from anycost.runtime.bundle import Bundle
from anycost.runtime.images import resize
from anycost.runtime.manifest import NetworkRecord
from anycost.runtime.networks import LoadedNetwork
from anycost.runtime.pipelines.common import part_of, side_of
from anycost.runtime.pipelines.encode import KIND as ENCODER
from anycost.runtime.pipelines.encode import encode
from anycost.runtime.pipelines.inpaint import ANYWHERE, CENTRAL, inpaint
from anycost.runtime.pipelines.translate import STYLED, style_dim, style_from_seed, translate_image
from anycost.runtime.quality import NetworkQuality

Array = np.ndarray
KINDS = (STYLED, ANYWHERE, CENTRAL, ENCODER)
FILLED, ENCODED, TRANSLATED, STYLES = 64, 64, 8, 32
# How the count of pictures is called in the figures: data, or the generator's own images. ``tables.py`` knows both.
PICTURES, GENERATED = "pictures", "generated pictures"


@dataclass(frozen=True)
class Inputs:
    """What networks are given: data, or the generator's images of seeds from ``first_seed`` on. target: features' Gaussian
    of the pictures that translators translate to."""

    data: Pictures | None
    source: Source | None
    first_seed: int
    target: Gaussian | None

    def pictures(self, count: int, side: int) -> Array | None:
        """uint8 [N, side, side, 3], None where there is neither."""
        if self.data is not None:
            return self.data.sample(count, side)
        if self.source is None:
            return None
        seeds = range(self.first_seed, self.first_seed + count)
        images = self.source.reference(self.source.full, self.source.codes(seeds))
        return np.stack([resize(image, (side, side)) for image in images])


def measured(bundle: Bundle) -> list[NetworkRecord]:
    """The networks of the bundle that there is a measure for."""
    return [record for record in bundle.manifest.networks if record.kind in KINDS]


def figures(
    bundle: Bundle, record: NetworkRecord, inputs: Inputs, tools: Tools, extract: Callable[[], Extractor], threads: int
) -> NetworkQuality | None:
    """By name: of a context encoder those of ``inpainting``, of a translator those of ``translation`` (without a target only
    the diversity), of an encoder the pairs of pictures with what the generator makes of their codes. None without pictures,
    and for an encoder of another generator."""
    network = LoadedNetwork(bundle, record, None, threads)
    distance = tools.distance()
    part = part_of(network, "encode" if record.kind == STYLED else "")
    side = side_of(network, part.inputs[0])
    found: dict[str, float] | None
    if record.kind == ENCODER:
        found = _encoder(network, inputs, distance, tools.attributes())
    elif record.kind == STYLED:
        found = _translator(network, inputs.pictures(TRANSLATED, side), inputs.target, extract(), distance)
    else:
        pictures = inputs.pictures(FILLED, side)
        found = None if pictures is None else inpainting(lambda image, mask: inpaint(network, image, mask), pictures)
    if found is None:
        return None
    if inputs.data is None:
        found[GENERATED] = found.pop(PICTURES)
    return NetworkQuality(kind=record.kind, source_sha256=record.source_sha256, figures=found)


def _translator(
    network: LoadedNetwork, pictures: Array | None, target: Gaussian | None, extract: Extractor, distance: Distance
) -> dict[str, float] | None:
    if pictures is None:
        return None
    styles = style_from_seed(range(STYLES), style_dim(network))
    # Diversity needs no target; the distance to something else is left out.
    against = target or gaussian(extract(pictures))
    found = translation(lambda image, _: translate_image(network, image, styles), pictures, extract, against, distance)
    return found if target else {name: value for name, value in found.items() if name != f"D{extract.measure}"}


def _encoder(
    network: LoadedNetwork, inputs: Inputs, distance: Distance, predictor: AvatarFeatures | None
) -> dict[str, float] | None:
    source = inputs.source
    if source is None or part_of(network).outputs[0].shape != (source.arch.n_style, source.arch.style_dim):
        return None
    pictures = inputs.pictures(ENCODED, source.arch.resolution)
    assert pictures is not None
    images = source.reference(source.full, encode(network, list(pictures)))
    found = {name: float(values.mean()) for name, values in pairwise(images, pictures, distance).items()}
    if predictor:
        kept = consistency(predictor.logits(predictor(pictures)), predictor.logits(predictor(images))).share
        found |= {} if kept is None else {"consistency": kept}
    return found | {PICTURES: float(len(pictures))}
