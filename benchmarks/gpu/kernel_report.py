"""What a result says of the kernels: times beside floors, and which form of a layer wins where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anycost.benchmarks.kernel_floors import Device, measured
from anycost.kernels.work import Work

Values = Mapping[str, Any]
# Microseconds of floor below which a launch is not listed, and below which it counts for no goal: from the end of one launch
# to the start of the next a device takes one or two.
_LISTED_US, COUNTED_US = 1.0, 5.0


def kernels(values: Values) -> Iterator[str]:
    """Nothing for a result without kernels."""
    entry = values.get("kernels")
    if not entry:
        return
    rows, rates = entry.get("rows", {}), values.get("rates")
    if rates and rows:
        device = device_of(values)
        yield from _launches(rows, device)
        yield from _forms(entry, device)
        yield from _sums(entry, device)
    failures = [
        f"- {row['operator']} {row['title']}, {label}: {reason}"
        for row in rows.values()
        for label, reason in row["failed"].items()
    ]
    if entry["reason"]:
        failures.insert(0, f"- all ({entry['state']}): {entry['reason']}")
    if failures:
        yield "Kernels that are not measured:"
        yield ""
        yield from failures
        yield ""


def device_of(values: Values) -> Device:
    rates = values["rates"]
    name = values.get("device", {}).get("name", "this device")
    return measured(name, rates["matmul_tflops"], rates["copy_gbps"], rates.get("vector_tflops", 0.0))


def floor_us(row: Values, device: Device) -> float:
    """Of all its launches, one after another."""
    return sum(device.floor_us(_work(one), one["half"]) for one in row["works"])


def best(row: Values) -> tuple[str, float] | None:
    """The fastest candidate, with its microseconds; None where none was timed."""
    timed = {label: one["us"] for label, one in row["candidates"].items()}
    label = min(timed, key=timed.__getitem__, default=None)
    return None if label is None else (label, timed[label])


def memory_bound(values: Values) -> list[tuple[Values, float]]:
    """The launches that count for the goal, with the part of their time that is their floor."""
    entry = values.get("kernels") or {}
    if "rates" not in values:
        return []
    device, found = device_of(values), []
    for row in entry.get("rows", {}).values():
        fastest = best(row)
        if row["operator"] == "layer" or fastest is None:
            continue
        (one,) = row["works"]
        floor = floor_us(row, device)
        if floor >= COUNTED_US and device.memory_bound(_work(one), one["half"]):
            found.append((row, floor / fastest[1]))
    return found


def _launches(rows: Values, device: Device) -> Iterator[str]:
    yield (
        "The kernels, one by one: microseconds of one launch among many on other operands, which are not in the device's cache. "
        "Floor: what the device's own rates leave of it."
    )
    yield ""
    yield "| kernel | sizes | first used in | bound by | floor | time | of floor | blocks | error |"
    yield "|---|---|---|---|---:|---:|---:|---|---:|"
    for row in rows.values():
        fastest = best(row)
        floor = floor_us(row, device)
        if row["operator"] == "layer" or fastest is None or floor < _LISTED_US:
            continue
        (one,) = row["works"]
        bound = "memory" if device.memory_bound(_work(one), one["half"]) else "arithmetic"
        label, us = fastest
        yield (
            f"| {row['operator']} | {row['title']} | {row['used'][0]} | {bound} | {floor:.1f} | {us:.1f} | {floor / us:.0%} "
            f"| {label} | {row['candidates'][label]['error']:.0e} |"
        )
    yield ""


def _forms(entry: Values, device: Device) -> Iterator[str]:
    """Layers that can be done in more than one way."""
    lines = []
    for layer in entry["layers"]:
        timed = _timed(layer, entry["rows"])
        if len({way["form"] for way in layer["ways"]}) < 2 or not timed:
            continue
        cells, fastest = [], min(timed, key=lambda one: one[1])[0]["form"]
        for form in dict.fromkeys(way["form"] for way in layer["ways"]):
            own = [(way, us) for way, us in timed if way["form"] == form]
            if not own:
                cells.append(f"{form} failed")
                continue
            way, us = min(own, key=lambda one: one[1])
            cells.append(f"{form} {us:.1f} ({floor_us(entry['rows'][way['problem']], device):.1f})")
        lines.append(f"| {layer['subnet']} | {layer['name']} | {layer['title']} | {'; '.join(cells)} | {fastest} |")
    if lines:
        yield "Which form of a layer wins: microseconds of the fastest blocks of each, with the floor of all its launches."
        yield ""
        yield "| sub-network | layer | sizes | forms | fastest |"
        yield "|---|---|---|---|---|"
        yield from lines
        yield ""


def _sums(entry: Values, device: Device) -> Iterator[str]:
    """Whole sub-networks, as the sum of what each layer takes at best."""
    lines = []
    for subnet in dict.fromkeys(layer["subnet"] for layer in entry["layers"]):
        layers = [layer for layer in entry["layers"] if layer["subnet"] == subnet]
        fastest = [min((us for _, us in _timed(layer, entry["rows"])), default=None) for layer in layers]
        known = [
            entry["rows"][way["problem"]]
            for layer in layers
            for way in layer["ways"]
            if way["problem"] in entry["rows"]
        ]
        if None in fastest or not all(row["works"] for row in known):
            continue
        floor = sum(
            min(floor_us(entry["rows"][w["problem"]], device) for w in layer["ways"] if w["problem"] in entry["rows"])
            for layer in layers
        )
        total = sum(us for us in fastest if us is not None)
        lines.append(f"| {subnet} | {len(layers)} | {floor:.0f} | {total:.0f} | {floor / total:.0%} |")
    if lines:
        yield "| sub-network | layers | floors, added | fastest, added | of floor |"
        yield "|---|---:|---:|---:|---:|"
        yield from lines
        yield ""


def _timed(layer: Values, rows: Values) -> list[tuple[Values, float]]:
    """Its ways that have a time."""
    found = []
    for way in layer["ways"]:
        one = rows.get(way["problem"], {}).get("candidates", {}).get(way["candidate"])
        if one:
            found.append((way, one["us"]))
    return found


def _work(one: Values) -> Work:
    return Work(one["read"], one["written"], one["flops"], one["tensor_cores"])
