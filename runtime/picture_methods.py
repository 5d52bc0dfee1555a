"""What a runtime does with the networks beside the generator; each method hands on to its pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anycost.errors import BundleError
from anycost.runtime.bundle import Bundle
from anycost.runtime.images import Source
from anycost.runtime.networks import LoadedNetwork
from anycost.runtime.profile import Profile

Array = np.ndarray
Images = Source | Sequence[Source]


class PictureMethods:
    """Of ``Runtime``. Pictures are paths, bytes, PIL images or arrays; ``name`` is needed where the bundle holds several
    networks of a kind. Every method raises BundleError where it holds none, and InputError for what it is given."""

    bundle: Bundle
    threads: int
    _profile: Profile | None
    _networks: dict[str, LoadedNetwork]

    def network(self, kind: str, name: str | None = None) -> LoadedNetwork:
        """A network of the bundle beside the generator, by its kind and, where there are several of it, its name.

        Raises BundleError when there is none. Its engines are loaded when they are first run.
        """
        record = self.bundle.network(kind, name)
        if record.name not in self._networks:
            self._networks[record.name] = LoadedNetwork(self.bundle, record, self._profile, self.threads)
        return self._networks[record.name]

    def one_of(self, kinds: Sequence[str], name: str | None = None) -> LoadedNetwork:
        """The bundle's only network of any of these kinds, or the one called ``name``."""
        held = [net for net in self.bundle.manifest.networks if net.kind in kinds and name in (None, net.name)]
        if len(held) > 1:
            listed = ", ".join(net.name for net in held)
            raise BundleError(f"{self.bundle.folder} holds several networks for this: name one of {listed}")
        # Where there is none, this says so.
        return self.network(held[0].kind, held[0].name) if held else self.network(kinds[0], name)

    def encode(self, images: Images, *, fit: str = "crop", name: str | None = None) -> Array:
        """Codes w+ float32 [N, n_style, style_dim] of pictures, for ``edit`` and ``generate(w_plus=...)``."""
        from anycost.runtime.pipelines.encode import encode

        return encode(self.network("encoder", name), images, fit)

    def attributes(self, images: Images, *, fit: str = "crop", name: str | None = None) -> list[dict[str, float]]:
        """For each picture the probability of every attribute, by name."""
        from anycost.runtime.pipelines.attributes import attributes

        return attributes(self.network("attributes", name), images, fit)

    def tag(
        self, images: Images, threshold: float = 0.5, most: int | None = None, *, name: str | None = None
    ) -> list[list[tuple[str, float]]]:
        """For each picture its tags of at least this probability, the most likely first."""
        from anycost.runtime.pipelines.tag import tag

        return tag(self.network("tagger", name), images, threshold, most)

    def inpaint(self, image: Source, mask: Array | str, *, seed: int = 0, name: str | None = None) -> Array:
        """uint8 [H, W, 3] with what is missing filled; all other pixels are exactly the picture's.

        mask: bool [H, W], True where it is missing, or text as of ``masks.parse_mask``; seed: of random masks.
        """
        from anycost.runtime.images import read_image
        from anycost.runtime.masks import parse_mask
        from anycost.runtime.pipelines.inpaint import ANYWHERE, CENTRAL, inpaint

        pixels = read_image(image)
        missing = parse_mask(mask, pixels.shape[0], pixels.shape[1], seed) if isinstance(mask, str) else mask
        return inpaint(self.one_of((ANYWHERE, CENTRAL), name), pixels, missing)

    def translate(
        self,
        image: Source,
        styles: Any = None,
        *,
        seeds: Sequence[int] | int | None = None,
        fit: str = "crop",
        name: str | None = None,
    ) -> Array:
        """uint8 [K, S, S, 3]: a picture in every style. styles: [dim] or [K, dim]; seeds: draw them; neither: its own.

        Videos are ``pipelines.translate.translate_file``.
        """
        from anycost.runtime.pipelines import translate

        network = self.one_of(translate.KINDS, name)
        if seeds is not None:
            styles = translate.style_from_seed(seeds, translate.style_dim(network))
        return translate.translate_image(network, image, styles, fit)

    def sample(
        self, seeds: Sequence[int] | int, which: str | None = None, *, psi: float = 1.0, name: str | None = None
    ) -> Array:
        """uint8 [N, S, S, 3] by a generator without sub-networks. which: a digit, or a resolution, where it has several."""
        from anycost.runtime.pipelines.sample import KINDS, sample

        return sample(self.one_of(KINDS, name), seeds, which, psi)
