"""What the fused kernels must move and compute, and how long devices need for that at least: works without a GPU.

    python -m benchmarks.kernels
    python -m benchmarks.kernels --subnets 0.5@512 --precision bf16 --devices h200

One table of every different launch, one of the forms of the up-convolutions, one of whole sub-networks (docs/kernels.md).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from anycost.benchmarks.kernel_floors import DEVICES, Device
from anycost.errors import AnycostError, InputError
from anycost.kernels.work import Work
from anycost.networks.channels import Architecture, SubnetError, parse_subnets

if TYPE_CHECKING:
    from anycost.benchmarks.kernel_cases import Cases, LayerWays, Problem
    from anycost.kernels.call import Call

SUBNETS = "0.25@256,0.5@512,1@1024"
# Of one launch: its work, and whether its operands have 16 bits.
Least = tuple[Work, bool]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--subnets", default=SUBNETS, help=f"of config-f, grid or RATIO@RESOLUTION (default: {SUBNETS})"
    )
    parser.add_argument("--precision", default="fp16", choices=("fp16", "bf16", "fp32"))
    parser.add_argument(
        "--devices", default=",".join(DEVICES), help=f"separated by commas (default: {','.join(DEVICES)})"
    )
    parser.add_argument("--short", action="store_true", help="without the launches one by one")
    args = parser.parse_args(arguments)
    try:
        devices = _devices(args.devices)
        arch = Architecture(1024)
        nets = parse_subnets(args.subnets, arch)
        from anycost.benchmarks.kernel_cases import collect

        cases = collect(arch, nets, args.precision)
    except ModuleNotFoundError as error:
        print(f"kernels: {error}: pip install 'anycost-runtime[export,kernels]'", file=sys.stderr)
        return 2
    except (AnycostError, SubnetError) as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 2
    print("\n".join(report(cases, devices, short=args.short)))
    return 0


def report(cases: Cases, devices: Sequence[Device], short: bool = False) -> Iterator[str]:
    """Lines of Markdown."""
    works = works_of(cases)
    if not short:
        yield from _launches(cases, works, devices)
    yield from _forms(cases, works, devices)
    yield from _sums(cases, works, devices)


def works_of(cases: Cases) -> dict[str, list[Least]]:
    """Of every launch of each problem, by its key."""
    from anycost.benchmarks.kernel_work import half, work_of

    return {
        problem.key: [(work_of(call, cases.tables[problem.key]), half(call)) for call in _calls(problem)]
        for problem in cases.problems
    }


def floor_us(works: Sequence[Least], device: Device) -> float:
    """Of launches one after another."""
    return sum(device.floor_us(work, half) for work, half in works)


def least_way(
    layer: LayerWays, works: Mapping[str, Sequence[Least]], device: Device, form: str = ""
) -> Sequence[Least]:
    """The launches of the way, of one form where one is named, with the lowest floor."""
    ways = [works[way.problem] for way in layer.ways if form in ("", way.form)]
    return min(ways, key=lambda way: floor_us(way, device))


def _launches(cases: Cases, works: Mapping[str, Sequence[Least]], devices: Sequence[Device]) -> Iterator[str]:
    heads = [f"{device.name}, us | bound by" for device in devices]
    yield f"| kernel | sizes | first used in | MB | GFLOP | {' | '.join(heads)} |"
    yield "|---|---|---|---:|---:|" + "---:|---|" * len(devices)
    for problem in cases.problems:
        if problem.operator == "layer":
            continue
        ((work, half),) = works[problem.key]
        cells = [
            f"{device.floor_us(work, half):.1f} | {'memory' if device.memory_bound(work, half) else 'arithmetic'}"
            for device in devices
        ]
        yield (
            f"| {problem.operator} | {problem.title} | {problem.used[0]} | {work.bytes / 1e6:.2f} | {work.flops / 1e9:.2f} "
            f"| {' | '.join(cells)} |"
        )
    yield ""


def _forms(cases: Cases, works: Mapping[str, Sequence[Least]], devices: Sequence[Device]) -> Iterator[str]:
    """The lowest floor of each form of the up-convolutions."""
    heads = [f"{device.name}: fused | polyphase | lower" for device in devices]
    yield f"| sub-network | up-convolution | sizes | {' | '.join(heads)} |"
    yield "|---|---|---|" + "---:|---:|---|" * len(devices)
    for layer in cases.layers:
        forms = {way.form for way in layer.ways}
        if not {"fused", "polyphase"} <= forms:
            continue
        cells = []
        for device in devices:
            floors = {f: floor_us(least_way(layer, works, device, f), device) for f in ("fused", "polyphase")}
            lower = min(floors, key=floors.__getitem__)
            cells.append(f"{floors['fused']:.1f} | {floors['polyphase']:.1f} | {lower}")
        yield f"| {layer.subnet} | {layer.name} | {layer.title} | {' | '.join(cells)} |"
    yield ""


def _sums(cases: Cases, works: Mapping[str, Sequence[Least]], devices: Sequence[Device]) -> Iterator[str]:
    """Of the ways with the lowest floors, from w+ to the image."""
    yield "| sub-network | device | launches | MB | GFLOP | floors added, us | of it bound by memory |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for subnet in dict.fromkeys(layer.subnet for layer in cases.layers):
        for device in devices:
            least = [one for layer in cases.layers if layer.subnet == subnet for one in least_way(layer, works, device)]
            total = floor_us(least, device)
            by_memory = floor_us([one for one in least if device.memory_bound(*one)], device)
            moved, flops = sum(work.bytes for work, _ in least), sum(work.flops for work, _ in least)
            yield (
                f"| {subnet} | {device.name} | {len(least)} | {moved / 1e6:.0f} | {flops / 1e9:.0f} | {total:.0f} "
                f"| {by_memory / total:.0%} |"
            )
    yield ""


def _calls(problem: Problem) -> Sequence[Call]:
    return next(iter(problem.candidates.values()))


def _devices(text: str) -> list[Device]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in DEVICES]
    if unknown or not names:
        raise InputError(f"device {(unknown or [text])[0]!r} is unknown: choose from {', '.join(DEVICES)}")
    return [DEVICES[name] for name in names]


if __name__ == "__main__":
    sys.exit(main())
