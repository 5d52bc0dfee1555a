"""Every different launch of the generator's engines, as problems with candidates: what is computed, and the block sizes for it.

They come from the same drafts that engines are lowered from, so nothing is measured that no engine would launch; upfirdn2d and
bias_act, which are for users of the kernels alone, are added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anycost.benchmarks.kernel_work import operator_of
from anycost.export.launches import TYPES, mapping_draft, synthesis_draft
from anycost.kernels.bias_act.launch import bias_act_call
from anycost.kernels.call import Call, Operand, Slot
from anycost.kernels.compile import kernel_key
from anycost.kernels.lower import Step
from anycost.kernels.upfirdn.launch import FINISH_CONFIGS, UPFIRDN_CONFIGS, finish, upfirdn2d_call
from anycost.networks.channels import Architecture, Subnet
from anycost.networks.stylegan2 import fir_kernel

Array = np.ndarray
# Constants of kernels that are block sizes: what is left says what is computed.
_BLOCKS = ("PIXELS", "OUTPUTS", "CHANNELS", "DIM", "ROWS")
_DIGITS = 12


@dataclass(frozen=True)
class Problem:
    """key: what is computed and by which source, in short. operator: of ``kernel_work.OPERATORS``; ``layer`` for a sequence of
    launches. title: sizes and form. candidates: labels and the launches of each. used: where, as SUBNET STEP."""

    key: str
    operator: str
    title: str
    candidates: Mapping[str, Sequence[Call]]
    used: Sequence[str]


@dataclass(frozen=True)
class Way:
    """One way to do a layer. problem, candidate: whose time is its own."""

    label: str
    problem: str
    candidate: str

    @property
    def form(self) -> str:
        """``fused`` or ``polyphase`` for an up-convolution, else ``one launch`` or ``split``."""
        first = self.label.split()[0]
        return first if first in ("fused", "polyphase") else "split" if "/" in self.label else "one launch"


@dataclass(frozen=True)
class LayerWays:
    """A step of a sub-network's engine."""

    subnet: str
    name: str
    title: str
    ways: Sequence[Way]


@dataclass(frozen=True)
class Cases:
    """layers: the steps of all sub-networks, in their order. tables: by problem, contents of operands by the names of their
    slots."""

    problems: Sequence[Problem]
    layers: Sequence[LayerWays]
    tables: Mapping[str, Mapping[str, Array]]


class _Found:
    def __init__(self) -> None:
        self.candidates: dict[str, Any] = {}
        self.tables: dict[str, Mapping[str, Array]] = {}

    def add(self, calls: Sequence[Call], used: str, tables: Mapping[str, Array]) -> str:
        """-> the key of the problem that they are a candidate of."""
        key = _key(calls)
        entry = self.candidates.setdefault(key, ({}, []))
        entry[0].setdefault(" + ".join(map(label_of, calls)), tuple(calls))
        if used not in entry[1]:
            entry[1].append(used)
        self.tables[key] = tables
        return key

    def problems(self) -> list[Problem]:
        found = []
        for key, (candidates, used) in self.candidates.items():
            calls = next(iter(candidates.values()))
            operator = operator_of(calls[0]) if len(calls) == 1 else "layer"
            found.append(Problem(_digest(key, candidates), operator, _titles(calls), candidates, used))
        return found


def collect(arch: Architecture, nets: Sequence[Subnet], precision: str) -> Cases:
    """The launches of the sub-networks and of the mapping network, each once, in the order of the sub-networks. Weights are not
    looked at."""
    found, layers = _Found(), []
    for net in nets:
        draft = synthesis_draft(arch, net, True, precision)
        for step in draft.steps:
            layers.append((net.name, step, list(_ways(step, net.name, draft.tables, found))))
        for step in draft.prepare:
            list(_ways(step, net.name, draft.tables, found))
    for step in mapping_draft(arch).steps:
        list(_ways(step, "mapping", {}, found))
    for call, used in _alone(nets, precision):
        found.add([call], used, {})
    problems = found.problems()
    keys = dict(zip(found.candidates, problems, strict=True))
    return Cases(
        problems,
        [
            LayerWays(
                net, step.name, _layer_title(step), [Way(w.label, keys[w.problem].key, w.candidate) for w in ways]
            )
            for net, step, ways in layers
        ],
        {keys[key].key: tables for key, tables in found.tables.items()},
    )


def label_of(call: Call) -> str:
    """Its block sizes, warps and stages: ``64x64x64-4w3s``."""
    blocks = "x".join(str(value) for name, value in call.constants.items() if _is_block(name))
    return f"{blocks}-{call.warps}w{call.stages}s"


def _ways(step: Step, subnet: str, tables: Mapping[str, Array], found: _Found) -> Iterator[Way]:
    used = subnet if subnet == step.name.split(".")[0] else f"{subnet} {step.name}"
    for label, calls in step.choices:
        keys = [found.add([call], used, tables) for call in calls]
        for call in calls:
            for other in _other_blocks(call):
                found.add([other], used, tables)
        key = keys[0] if len(calls) == 1 else found.add(calls, used, tables)
        yield Way(label, key, " + ".join(map(label_of, calls)))


def _other_blocks(call: Call) -> Iterator[Call]:
    """Block sizes that engines do not try yet."""
    if operator_of(call) != "finish":
        return
    a: Mapping[str, Any] = call.arguments
    optional = {
        "taps": "HAS_TAPS",
        "demodulation": "HAS_DEMODULATION",
        "noise": "HAS_NOISE",
        "strength": "HAS_STRENGTH",
        "bias": "HAS_BIAS",
        "next_style": "HAS_NEXT",
    }
    given = {name: a[name] for name, flag in optional.items() if call.constants[flag]}
    parts, activate = call.constants["PARTS"], call.constants["ACTIVATE"]
    for config in FINISH_CONFIGS:
        yield finish(a["y"], a["out"], **given, parts=parts, activate=activate, config=config)


def _alone(nets: Sequence[Subnet], precision: str) -> Iterator[tuple[Call, str]]:
    """upfirdn2d as the FIR after a transposed convolution and as a picture's enlargement, bias_act as a layer's end."""
    dtype = TYPES[precision][0]
    taps = Slot("taps", tuple(fir_kernel(4.0).shape), torch.float32, shared=True)
    for net in nets:
        side, channels = net.resolution, net.channels[-1]
        used = f"{net.name} alone"
        above = Slot("x", (1, side + 1, side + 1, channels), dtype)
        out = Slot("out", (1, side, side, channels), dtype)
        below = Slot("x", (1, side // 2, side // 2, 3), torch.float32)
        picture = Slot("out", (1, side, side, 3), torch.float32)
        for config in UPFIRDN_CONFIGS:
            yield upfirdn2d_call(above, taps, out, padding=(1, 1, 1, 1), config=config), used
            yield upfirdn2d_call(below, taps, picture, (2, 2), padding=(2, 1, 2, 1), config=config), used
        x, out = (Slot(name, (1, channels, side, side), dtype) for name in ("x", "out"))
        bias = Slot("bias", (channels,), dtype, shared=True)
        for block in (1024, 4096):
            yield bias_act_call(x, bias, out, act="lrelu", block=block), used


def _is_block(name: str) -> bool:
    return name in _BLOCKS or name.startswith("BLOCK")


def _key(calls: Sequence[Call]) -> str:
    """What a sequence computes, whatever its block sizes, whichever slots it is between, however far apart their images."""
    return " then ".join(_one_key(call) for call in calls)


def _one_key(call: Call) -> str:
    kept = {name: value for name, value in call.constants.items() if not _is_block(name)}
    operands = {
        name: value if isinstance(value, int) else (tuple(value.shape), str(value.dtype))
        for name, value in call.arguments.items()
        if not name.endswith("_stride") and (isinstance(value, int) or _is_read(call, name))
    }
    return f"{operator_of(call)} {operands} {kept}"


def _is_read(call: Call, name: str) -> bool:
    """Whether an operand is one of its own: absent ones have another in their place."""
    flags = {"next_style": "HAS_NEXT"}
    return bool(call.constants.get(flags.get(name, f"HAS_{name.upper()}"), True))


def _digest(key: str, candidates: Mapping[str, Sequence[Call]]) -> str:
    """Of what is computed and of the kernels' source: figures of an older source are no figures of this one."""
    source = [kernel_key(call) for calls in candidates.values() for call in calls]
    return hashlib.sha256(repr((key, source)).encode()).hexdigest()[:_DIGITS]


def _titles(calls: Sequence[Call]) -> str:
    return " then ".join(_title(call) if len(calls) == 1 else f"{operator_of(call)} {_title(call)}" for call in calls)


def _title(call: Call) -> str:
    a: Mapping[str, Any] = call.arguments
    operator = operator_of(call)
    if operator == "styles":
        return f"{a['style'].shape[1]} styles, {a['demodulation'].shape[1]} coefficients"
    if operator == "linear":
        return f"{a['entering']} -> {a['leaving']}" + (", normalized" if call.constants["NORMALIZE"] else "")
    if operator == "bias_act":
        return f"{'x'.join(map(str, a['x'].shape[1:]))}, {call.constants['ACT']}"
    if operator == "fuse_filter":
        return f"{a['channels']} -> {a['outputs']}"
    image: Operand = a["y"] if operator == "finish" else a["x"]
    *_, height, width, channels = image.shape
    told = [f"{height}x{width}x{channels}"]
    if "outputs" in a:
        told[0] += f" -> {a['outputs']}"
    if operator == "upfirdn2d":
        told[0] += f" -> {a['out_height']}x{a['out_width']}"
    parts = a.get("splits", call.constants.get("PARTS", 1))
    told += [f"{parts} parts"] if parts > 1 else []
    names = {"TAPS": "FIR", "STYLE": "style", "SKIP": "skip", "DEMODULATION": "demodulation", "NEXT": "next style"}
    told += [word for name, word in names.items() if call.constants.get(f"HAS_{name}")]
    return ", ".join(told)


def _layer_title(step: Step) -> str:
    """The sizes of its first way's first launch."""
    return _title(step.choices[0][1][0]).split(",")[0]
