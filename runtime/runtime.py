"""The runtime: one object that opens a bundle and makes images within a budget."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anycost.errors import BackendError, BudgetError, BundleError, InputError
from anycost.runtime import backends
from anycost.runtime import latents as latent
from anycost.runtime.budget import Budget
from anycost.runtime.budget_methods import BudgetMethods
from anycost.runtime.bundle import Bundle, open_bundle
from anycost.runtime.manifest import MAPPING, SubnetRecord
from anycost.runtime.picture_methods import PictureMethods
from anycost.runtime.profile import default_threads, stored_profile
from anycost.runtime.segments import LoadedSegments, Reached, steps
from anycost.runtime.session import Session
from anycost.runtime.usable import unusable
from anycost.runtime.verify import EngineCheck, verify

if TYPE_CHECKING:
    from PIL.Image import Image

    from anycost.editing.directions import Directions
    from anycost.runtime.live import Live

Array = np.ndarray
# "stored", "random" or "none", or one array a 3x3 convolution.
Noise = str | Sequence[Array]
MOST_BATCH = 256
MOST_THREADS = 1024  # more would be started one by one for minutes
EDITED_ROWS = range(12)  # the coarse and middle layers; the finest are left to colour
KEPT_SESSIONS = 4


class Runtime(BudgetMethods, PictureMethods):
    """An open bundle. ``open(folder)`` makes one; nothing is loaded until the first image is asked for.

    threads: CPU threads of every engine (default: the processors this process may use). sessions: how many sub-networks
    stay loaded. Not thread-safe.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None, sessions: int = KEPT_SESSIONS):
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise InputError(f"threads {threads} is outside 1..{MOST_THREADS}")
        self.bundle = bundle
        self.threads = threads or default_threads()
        self._networks = {}
        self._sessions: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self.segments = LoadedSegments(bundle, self._load)
        self._kept = max(1, sessions)
        self._mappings: dict[str, backends.Engine] = {}
        self._profile = stored_profile(bundle, self.threads)
        self._mean: Array | None = None

    @property
    def subnets(self) -> tuple[SubnetRecord, ...]:
        return self.bundle.generator.subnets

    def explain(self, budget: Budget | None = None, *, measure: bool = True) -> str:
        """The table of engines as text, the chosen row marked, and the reason or why nothing fits; for a budget that images were
        made for, what they took and the switches since. measure: as of ``choose``."""
        from anycost.runtime.report import explain

        return explain(self, budget or Budget(), measure=measure)

    def session(self, subnet: str, variant: str) -> Session:
        """Load a sub-network of a variant (backend and precision), or return the loaded one. The last few are kept."""
        key = (subnet, variant)
        if key in self._sessions:
            self._sessions.move_to_end(key)
            return self._sessions[key]
        record = self.bundle.subnet(subnet)
        while len(self._sessions) >= self._kept:
            self._sessions.popitem(last=False)
        if variant not in self._mappings:
            self._mappings[variant] = self._load(MAPPING, variant)
        generator = self.bundle.generator
        session = Session(
            subnet=record,
            variant=variant,
            mapping=self._mappings[variant],
            synthesis=self._load(subnet, variant),
            n_style=generator.architecture.n_style,
            stored_noise=self._stored_noise(record) if generator.noise == "input" else None,
        )
        self._sessions[key] = session
        return session

    def holds(self, subnet: str, variant: str) -> bool:
        """Whether ``session`` would return at once."""
        return (subnet, variant) in self._sessions

    def _load(self, network: str, variant: str) -> backends.Engine:
        for engine in self.bundle.engines(network):
            if engine.variant == variant:
                if problem := unusable(engine):
                    raise BackendError(f"{engine.name} cannot run here: {problem}")
                weights = self.bundle.weights(network)
                return backends.load(engine.backend, self.bundle.path(engine.folder), weights.bind, self.threads)
        raise BudgetError(f"{self.bundle.folder} has no engine for {network} on backend {variant}")

    def _stored_noise(self, net: SubnetRecord) -> list[Array]:
        count = len(latent.noise_sides(net.resolution))
        weights = self.bundle.weights()
        return [weights.tensor(f"noises.noise_{i}") for i in range(count)]

    def mapping(self, z: Array, *, backend: str | None = None) -> Array:
        """z float [N, style_dim] -> w float32 [N, style_dim]."""
        z = self._checked(z, "z", (2,))
        chosen = self.choose(backend=backend).engine.variant
        if chosen not in self._mappings:
            self._mappings[chosen] = self._load(MAPPING, chosen)
        return self._mappings[chosen].run({"z": z})["w"]

    def generate(
        self,
        seeds: Sequence[int] | int | None = None,
        *,
        z: Array | None = None,
        w: Array | None = None,
        w_plus: Array | None = None,
        psi: float = 1.0,
        noise: Noise = "stored",
        noise_seed: int = 0,
        inject_index: int | None = None,
        budget: Budget | None = None,
        subnet: str | None = None,
        backend: str | None = None,
        batch: int = 1,
        output: Literal["array", "pil"] = "array",
    ) -> Any:
        """Images for seeds, or for z [N, style_dim], w [N, style_dim] or [N, 2, style_dim] (style mixing at
        ``inject_index``), or w_plus [N, n_style, style_dim]; exactly one of the four.

        psi: truncation towards the mean, -2..2 (1 none). noise: "stored", "random" (from ``noise_seed``, the same for any
        batch), "none", or one array [1 or N, 1, H, H] a 3x3 convolution. budget, subnet, backend (or a variant of
        one, such as openvino-fp16): what may run. A budget of time is followed: what earlier calls took counts beside the
        profile (``controller``), so a busy machine steps down to a smaller sub-network, for a call as a whole.
        batch: images of one engine call, 1..256. output: uint8 array [N, R, R, 3] or a list of PIL images.
        Raises InputError for arguments out of range, BudgetError when nothing fits.
        """
        if not 1 <= batch <= MOST_BATCH:
            raise InputError(f"batch {batch} is outside 1..{MOST_BATCH}")
        if output not in ("array", "pil"):
            raise InputError(f"output {output!r} is not 'array' or 'pil'")
        psi = latent.check_psi(psi)
        kind, codes = self._codes(seeds, z, w, w_plus)
        choice = self._for_images(budget, subnet, backend)
        grain = self._noise(noise, noise_seed, len(codes), choice.subnet)
        session = self.session(choice.subnet.name, choice.engine.variant)
        n_style = session.n_style
        mean = self.mean_style() if psi != 1 else None
        images = np.empty((len(codes), choice.subnet.resolution, choice.subnet.resolution, 3), np.uint8)
        for start in range(0, len(codes), batch):
            part = slice(start, start + batch)
            began = time.perf_counter()
            styles = session.mapping.run({"z": codes[part]})["w"] if kind == "z" else codes[part]
            if mean is not None:
                styles = latent.truncate(styles, mean, psi)
            layers = None if grain is None else grain(start, len(codes[part]))
            floats = session.synthesize(latent.mix(styles, n_style, inject_index), layers)
            # As a profile does, up to the float image.
            self.estimates.observe(choice.engine.name, (time.perf_counter() - began) * 1e3, len(floats))
            images[part] = latent.as_images(floats)
        return images if output == "array" else list(_as_pil(images))

    def steps(
        self,
        w_plus: Array,
        *,
        budget: Budget | None = None,
        subnet: str | None = None,
        backend: str | None = None,
        start: Reached | None = None,
        segments: bool | None = None,
    ) -> Iterator[Reached]:
        """Float images of codes [N, n_style, style_dim] with stored noise, each resolution of the chosen sub-network's segments
        as it is reached; the last alone where there are none, or where they cost too much here (``explain``).

        start: what an earlier call with the same codes came to; what it has is not computed again. segments: True or False
        decides instead of what was measured. Nothing runs before it is asked for, so a caller can stop between two.
        """
        codes = self._checked_w_plus(w_plus)
        choice = self._for_images(budget, subnet, backend)
        return steps(self, codes, choice.subnet.name, choice.engine.variant, start=start, segments=segments)

    def live(self, *, budget: Budget | None = None, **options: Any) -> Live:
        """Editing while it is watched: previews within a budget, the best image in the background. options: of ``live.Live``."""
        from anycost.runtime.live import Live

        return Live(self, budget=budget, **options)

    def codes(self, seeds: Sequence[int] | int, *, psi: float = 1.0) -> Array:
        """w+ float32 [N, n_style, style_dim] of seeds: what ``edit`` moves and ``generate(w_plus=...)`` takes."""
        generator = self.bundle.generator
        listed = [seeds] if isinstance(seeds, int) else list(seeds)
        w = self.mapping(latent.latents(listed, generator.architecture.style_dim))
        psi = latent.check_psi(psi)
        if psi != 1:
            w = latent.truncate(w, self.mean_style(), psi)
        return latent.mix(w, generator.architecture.n_style)

    def directions(self) -> Directions:
        """The editing directions of the bundle. Raises BundleError when it has none."""
        from anycost.editing.directions import load

        path = self.bundle.generator.directions
        if path is None:
            raise BundleError(
                f"{self.bundle.folder} holds no directions: build it with --directions FILE, or give them to edit"
            )
        return load(self.bundle.path(path))

    def edit(
        self,
        w_plus: Array,
        values: Mapping[str, float] | str,
        *,
        directions: Directions | None = None,
        rows: Sequence[int] = EDITED_ROWS,
    ) -> Array:
        """Codes [N, n_style, style_dim] moved along several directions at once, as sliders from -100 to 100 do.

        values: by name, or text such as "smiling=60,young=-20". directions: instead of the bundle's. rows: of w+ that are
        moved. Raises InputError for unknown names and values out of range.
        """
        from anycost.editing.apply import edit, parse_values

        chosen = directions or self.directions()
        given = parse_values(values) if isinstance(values, str) else values
        n_style = self.bundle.generator.architecture.n_style
        if not any(0 <= row < n_style for row in rows):
            raise InputError(f"rows {list(rows)[:3]}... move nothing: this generator's are 0 to {n_style - 1}")
        return edit(self._checked(w_plus, "w_plus", (3,)), chosen, given, rows=rows)

    def mean_style(self) -> Array:
        """Mean of w, float32 [1, style_dim]: the point that truncation pulls to."""
        if self._mean is None:
            self._mean = self.bundle.tensors(self.bundle.generator.latents)["mean_style"]
        return self._mean

    def verify(self, progress: Callable[[str, int, int], None] | None = None) -> list[EngineCheck]:
        """Run every engine on the stored latents and compare with the stored reference. Needs no PyTorch."""
        return verify(self, progress)

    def _codes(
        self, seeds: Sequence[int] | int | None, z: Array | None, w: Array | None, w_plus: Array | None
    ) -> tuple[Literal["z", "w"], Array]:
        given = [
            name for name, value in (("seeds", seeds), ("z", z), ("w", w), ("w_plus", w_plus)) if value is not None
        ]
        if len(given) != 1:
            raise InputError(f"give exactly one of seeds, z, w and w_plus, not {' and '.join(given) or 'none'}")
        if seeds is not None:
            listed = [seeds] if isinstance(seeds, int) else list(seeds) if len(seeds) <= latent.MOST_SEEDS else seeds
            return "z", latent.latents(listed, self.bundle.generator.architecture.style_dim)
        if z is not None:
            return "z", self._checked(z, "z", (2,))
        if w is not None:
            return "w", self._checked(w, "w", (2, 3))
        assert w_plus is not None
        return "w", self._checked_w_plus(w_plus)

    def _checked_w_plus(self, w_plus: Array) -> Array:
        codes = self._checked(w_plus, "w_plus", (3,))
        n_style = self.bundle.generator.architecture.n_style
        if codes.shape[1] != n_style:
            raise InputError(f"w_plus has {codes.shape[1]} rows: this generator takes {n_style}")
        return codes

    def _checked(self, array: Array, name: str, ranks: tuple[int, ...]) -> Array:
        """float32 of the right rank and width, finite, not empty, at most as many as seeds."""
        style_dim = self.bundle.generator.architecture.style_dim
        codes = np.asarray(array)
        if codes.ndim not in ranks or codes.shape[-1] != style_dim or codes.dtype.kind not in "fiu":
            raise InputError(
                f"{name} of shape {list(codes.shape)} and type {codes.dtype} is not float [N, ..., {style_dim}]"
            )
        if not 1 <= len(codes) <= latent.MOST_SEEDS:
            raise InputError(f"{name} has {len(codes)} rows: give 1 to {latent.MOST_SEEDS}")
        if not np.isfinite(codes).all():
            raise InputError(f"{name} holds a NaN or an infinity")
        return np.ascontiguousarray(codes, dtype=np.float32)

    def _noise(
        self, noise: Noise, seed: int, count: int, net: SubnetRecord
    ) -> Callable[[int, int], list[Array]] | None:
        """None for the stored noise, else what gives the layers of the images from ``start``, ``n`` of them."""
        if isinstance(noise, str) and noise == "stored":
            return None
        if self.bundle.generator.noise == "stored":
            raise InputError("this bundle was built with --noise stored: only noise='stored' can be used with it")
        sides = latent.noise_sides(net.resolution)
        if isinstance(noise, str):
            if noise == "random":
                first = latent.check_seeds([seed])[0]
                return lambda start, n: latent.random_noise(first + start, n, net.resolution)
            if noise == "none":
                zeros = [np.zeros((1, 1, side, side), np.float32) for side in sides]
                return lambda start, n: zeros
            raise InputError(f"noise {noise!r} is not stored, random, none or a list of arrays")
        layers = [np.asarray(layer, dtype=np.float32) for layer in noise]
        if len(layers) < len(sides):
            raise InputError(f"{len(layers)} noise arrays: sub-network {net.name} takes {len(sides)}")
        for i, (layer, side) in enumerate(zip(layers, sides, strict=False)):
            if layer.shape not in ((1, 1, side, side), (count, 1, side, side)):
                raise InputError(f"noise {i} has shape {list(layer.shape)}: it takes [1 or {count}, 1, {side}, {side}]")
        given = layers[: len(sides)]
        return lambda start, n: [x if len(x) == 1 else x[start : start + n] for x in given]


def _as_pil(images: Array) -> Iterator[Image]:
    from PIL import Image

    return (Image.fromarray(image) for image in images)


def open(folder: str | Path, *, threads: int | None = None) -> Runtime:
    """Open a bundle: read its manifest and check every file's sha256. Raises BundleError."""
    return Runtime(open_bundle(folder), threads=threads)
