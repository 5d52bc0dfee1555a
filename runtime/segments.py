"""Running a sub-network as a chain of segments: one of each resolution, which hands its features and its image to the next.

So each resolution is shown as it is reached, and going on from a smaller sub-network of the same ratio costs only what is new.
Chains are used where they were measured to cost little more than the whole engine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from anycost.errors import InputError
from anycost.runtime import backends, latents
from anycost.runtime.bundle import Bundle
from anycost.runtime.manifest import SegmentRecord
from anycost.runtime.profile import Profile

if TYPE_CHECKING:
    from anycost.runtime.runtime import Runtime

Array = np.ndarray
# Ports of a segment's engine beside w_plus and the noise.
FEATURES, IMAGE, FEATURES_BELOW, IMAGE_BELOW = "features", "image", "features_below", "image_below"
# Of a chain's time above the whole engine's, as a part of this.
MOST_OVERHEAD = 0.05
_KEPT_ENGINES = 10


@dataclass(frozen=True)
class Reached:
    """What was made of codes up to one sub-network. image: float32 [N, 3, R, R], nominally in [-1, 1]. engine: which made it.
    features: what the next segment goes on from, None where nothing can."""

    w_plus: Array
    subnet: str
    variant: str
    engine: str
    image: Array
    features: Array | None = None


class ReachedStore:
    """The last of what was reached, by codes, within a number of bytes: what segments go on from."""

    def __init__(self, most_bytes: int = 512_000_000):
        self._most = most_bytes
        self._kept: list[Reached] = []

    def of(self, w_plus: Array, variant: str) -> Reached | None:
        """The furthest that these codes came to."""
        same = [one for one in self._kept if one.variant == variant and np.array_equal(one.w_plus, w_plus)]
        return same[-1] if same else None

    def keep(self, reached: Reached) -> None:
        """In place of what the same codes came to before; nothing where no segment goes on from it."""
        self._kept = [
            one
            for one in self._kept
            if one.variant != reached.variant or not np.array_equal(one.w_plus, reached.w_plus)
        ]
        if reached.features is not None:
            self._kept.append(reached)
        while sum(_bytes(one) for one in self._kept) > self._most:
            del self._kept[0]


def _bytes(reached: Reached) -> int:
    return reached.image.nbytes + (0 if reached.features is None else reached.features.nbytes)


def chain(bundle: Bundle, subnet: str, variant: str) -> tuple[SegmentRecord, ...]:
    """The segments that lead to a sub-network, the lowest first; none where the bundle has not all of them for the variant."""
    by_subnet = {segment.subnet: segment for segment in bundle.generator.segments}
    held = {engine.network for engine in bundle.manifest.engines if engine.variant == variant}
    found: list[SegmentRecord] = []
    at = by_subnet.get(subnet)
    while at is not None:
        found.insert(0, at)
        at = by_subnet[at.below] if at.below else None
    return tuple(found) if all(segment.name in held for segment in found) else ()


def chains(bundle: Bundle) -> list[str]:
    """The sub-networks that chains end with, one a ratio."""
    generator = bundle.manifest.generator
    segments = generator.segments if generator else ()
    passed = {segment.below for segment in segments}
    return [segment.subnet for segment in segments if segment.subnet not in passed]


def overhead(profile: Profile | None, subnet: str, variant: str) -> float | None:
    """What a chain takes more than the whole engine, as a part of this: 0.02 is 2 %. None where it was not measured here."""
    found = profile.chains.get(f"{subnet}/{variant}") if profile else None
    return found.overhead if found else None


def worth(bundle: Bundle, profile: Profile | None, subnet: str, variant: str) -> bool:
    """Whether there is a chain to a sub-network that was measured to cost little more than the whole engine."""
    more = overhead(profile, subnet, variant)
    return more is not None and more < MOST_OVERHEAD and len(chain(bundle, subnet, variant)) > 1


class LoadedSegments:
    """Engines of segments, opened when they are first run; the last ten are kept. Not thread-safe.

    load: opens an engine by network and variant.
    """

    def __init__(self, bundle: Bundle, load: Callable[[str, str], backends.Engine]):
        self._bundle, self._load = bundle, load
        self._engines: OrderedDict[tuple[str, str], backends.Engine] = OrderedDict()

    def run(
        self,
        segment: SegmentRecord,
        variant: str,
        w_plus: Array,
        below: Reached | None,
        noise: Sequence[Array] | None = None,
    ) -> Reached:
        """One segment. w_plus: float32 [N, n_style, style_dim]. below: what the segment's ``below`` came to, None for the first.
        noise: one [1 or N, 1, H, H] a 3x3 convolution of the sub-network, None for the stored."""
        inputs = {"w_plus": np.ascontiguousarray(w_plus, dtype=np.float32)}
        if below is not None:
            assert below.features is not None
            inputs |= {FEATURES_BELOW: below.features, IMAGE_BELOW: below.image}
        if self._bundle.generator.noise == "input":
            inputs |= self._grain(segment, len(w_plus), self._stored_noise if noise is None else noise)
        found = self._engine(segment.name, variant).run(inputs)
        name = f"{segment.name}/{variant}"
        return Reached(w_plus, segment.subnet, variant, name, found[IMAGE], found.get(FEATURES))

    def _grain(self, segment: SegmentRecord, batch: int, noise: Sequence[Array]) -> dict[str, Array]:
        """The noise inputs of its own 3x3 convolutions."""
        found = {}
        for i in self._convolutions[segment.name]:
            layer = noise[i]
            if len(layer) != batch or layer.dtype != np.float32 or not layer.flags.c_contiguous:
                shape = (batch, *layer.shape[1:])
                layer = np.ascontiguousarray(np.broadcast_to(layer, shape), dtype=np.float32)
            found[f"noise_{i}"] = layer
        return found

    @cached_property
    def _convolutions(self) -> dict[str, range]:
        """Which of the generator's 3x3 convolutions each segment has."""
        counts = {net.name: len(latents.noise_sides(net.resolution)) for net in self._bundle.generator.subnets}
        return {
            segment.name: range(counts[segment.below] if segment.below else 0, counts[segment.subnet])
            for segment in self._bundle.generator.segments
        }

    @cached_property
    def _stored_noise(self) -> list[Array]:
        weights = self._bundle.weights()
        count = len(latents.noise_sides(self._bundle.generator.architecture.resolution))
        return [weights.tensor(f"noises.noise_{i}") for i in range(count)]

    def _engine(self, name: str, variant: str) -> backends.Engine:
        key = name, variant
        if key not in self._engines:
            while len(self._engines) >= _KEPT_ENGINES:
                self._engines.popitem(last=False)
            self._engines[key] = self._load(name, variant)
        self._engines.move_to_end(key)
        return self._engines[key]


def steps(
    runtime: Runtime,
    w_plus: Array,
    subnet: str,
    variant: str,
    *,
    start: Reached | None = None,
    segments: bool | None = None,
) -> Iterator[Reached]:
    """Images of codes [N, n_style, style_dim], with stored noise: each resolution of the chain as it is reached, the
    sub-network's own last; its own alone from the whole engine. Nothing runs before it is asked for.

    start: what a smaller sub-network of the chain came to with the same codes; only what follows is computed. segments: whether
    to use the chain; None: where it is worth it. Raises InputError for a start of other codes.
    """
    if start is not None and not np.array_equal(start.w_plus, w_plus):
        raise InputError("this start was made of other codes: leave it out, or give the codes that it was made of")
    bundle = runtime.bundle
    return _steps(
        runtime, w_plus, subnet, variant, start, _links(bundle, runtime.stored_profile, subnet, variant, segments)
    )


def _links(
    bundle: Bundle, profile: Profile | None, subnet: str, variant: str, segments: bool | None
) -> tuple[SegmentRecord, ...]:
    found = chain(bundle, subnet, variant)
    if segments and not found:
        raise InputError(f"{bundle.folder} has no segments for {subnet}/{variant}: build it with --segments")
    use = worth(bundle, profile, subnet, variant) if segments is None else segments
    return found if use else ()


def _steps(
    runtime: Runtime,
    w_plus: Array,
    subnet: str,
    variant: str,
    start: Reached | None,
    links: tuple[SegmentRecord, ...],
) -> Iterator[Reached]:
    if start is not None and (start.subnet, start.variant) == (subnet, variant):
        yield start
        return
    if not links:
        session = runtime.session(subnet, variant)
        yield Reached(w_plus, subnet, variant, f"{subnet}/{variant}", session.synthesize(w_plus, None))
        return
    at = None
    if start is not None and start.features is not None and start.variant == variant:
        passed = [i for i, link in enumerate(links) if link.subnet == start.subnet]
        if passed:
            at, links = start, links[passed[0] + 1 :]
    for link in links:
        at = runtime.segments.run(link, variant, w_plus, at)
        yield at


def goes_on(
    bundle: Bundle,
    profile: Profile | None,
    variant: str,
    preview: str,
    goal: str,
    p95_ms: float | None = None,
    latency_ms: float | None = None,
) -> tuple[SegmentRecord, ...]:
    """The segments that lead from a preview to the goal, two sub-networks, where it is worth making the preview by segments for
    them; none otherwise. It is when both are of one chain, which is worth it up to both, and what the preview (p95_ms, None where
    unknown) takes more that way still fits the budget (None: any)."""
    links = chain(bundle, goal, variant)
    passed = [i for i, link in enumerate(links[:-1]) if link.subnet == preview]
    if not passed or not worth(bundle, profile, goal, variant):
        return ()
    # The lowest has no chain of its own: its one segment is the whole engine, with features.
    more = overhead(profile, preview, variant) if passed[0] else 0.0
    if more is None or more >= MOST_OVERHEAD:
        return ()
    if p95_ms is not None and latency_ms is not None and p95_ms * (1 + max(more, 0.0)) > latency_ms:
        return ()
    return links[passed[0] + 1 :]


def explained(runtime: Runtime) -> list[str]:
    """A line for each chain and variant: what it costs more than whole engines here, and whether it is used therefore."""
    bundle, profile = runtime.bundle, runtime.stored_profile
    found = []
    for last in chains(bundle):
        for variant in dict.fromkeys(engine.variant for engine in bundle.engines(last)):
            links = chain(bundle, last, variant)
            if not links:
                continue
            nets = [bundle.subnet(link.subnet) for link in links]
            name = f"segments to {last}/{variant} ({', '.join(str(net.resolution) for net in nets)} px)"
            more = {net.resolution: overhead(profile, net.name, variant) for net in nets[1:]}
            known = [f"{side} px {value:+.1%}" for side, value in more.items() if value is not None]
            if not known:
                found.append(f"{name}: not measured here, so not used: run 'anycost profile'")
                continue
            used = [str(net.resolution) for net in nets if worth(bundle, profile, net.name, variant)]
            verdict = f"used to reach {' and '.join(used)} px" if used else "not used"
            text = f"{name} against whole engines: {', '.join(known)}; {verdict}"
            found.append(text if len(used) == len(more) else f"{text}: from {MOST_OVERHEAD:.0%} on they cost too much")
    return found
