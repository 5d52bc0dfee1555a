"""What the fused kernels are meant to reach, and whether a result says that they do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anycost.benchmarks.gpu.kernel_report import COUNTED_US, memory_bound
from anycost.networks.channels import Architecture, macs

Values = Mapping[str, Any]
# In fp16, one image at a time, of FFHQ's shapes (config-f).
DEVICE = "H200"
MILLISECONDS = {"1@1024": 1.0, "0.5@512": 0.4}
FASTER_THAN_COMPILED = 2.5
OF_FLOOR = 0.6
OWN, COMPILED = "cuda", ("compiled", "compiled-paper")


def goals(values: Values) -> Iterator[str]:
    """Lines of Markdown; nothing where a result has no figures that a goal is of."""
    lines = [*_times(values), *_shares(values)]
    if lines:
        yield f"Goals, of fp16 and one image at a time; the times are of an {DEVICE}:"
        yield ""
        yield from lines
        yield ""


def _times(values: Values) -> Iterator[str]:
    if values["settings"]["precision"] != "fp16":
        return
    name = values.get("device", {}).get("name", "")
    for subnet, most in MILLISECONDS.items():
        own = _milliseconds(values, OWN, subnet)
        if own is None or not _config_f(values, subnet):
            continue
        if DEVICE in name:
            yield f"- {subnet} in at most {most:g} ms: {own:.3g} ms, {_met(own <= most)}"
        else:
            yield f"- {subnet} in at most {most:g} ms: {own:.3g} ms on another device"
        others = [ms for contender in COMPILED if (ms := _milliseconds(values, contender, subnet)) is not None]
        if others:
            ratio = min(others) / own
            yield (
                f"- {subnet} at least {FASTER_THAN_COMPILED:g} times faster than torch.compile: {ratio:.2f} times, "
                f"{_met(ratio >= FASTER_THAN_COMPILED)}"
            )


def _shares(values: Values) -> Iterator[str]:
    counted = memory_bound(values)
    if counted:
        worst, share = min(counted, key=lambda one: one[1])
        enough = sum(part >= OF_FLOOR for _, part in counted)
        yield (
            f"- kernels bound by memory at {OF_FLOOR:.0%} of their floor or more, of {COUNTED_US:g} us and longer: {enough} of "
            f"{len(counted)}, the least {share:.0%} ({worst['operator']} {worst['title']}), {_met(enough == len(counted))}"
        )


def _milliseconds(values: Values, contender: str, subnet: str) -> float | None:
    """On the device, of one image."""
    entry = values["contenders"].get(contender, {})
    rows = [row for row in entry.get("figures", []) if row["subnet"] == subnet and row["batch"] == 1 and row["device"]]
    return rows[0]["device"]["p50"] if rows else None


def _config_f(values: Values, subnet: str) -> bool:
    arch = Architecture(1024)
    ratio, side = subnet.split("@")
    wanted = macs(arch.subnet(int(side), float(ratio)), arch.style_dim)
    return bool(values.get("effort", {}).get(subnet, {}).get("macs") == wanted)


def _met(met: bool) -> str:
    return "**met**" if met else "**missed**"
