"""The short table of a result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from anycost.benchmarks.gpu.effort import Effort
from anycost.benchmarks.gpu.goals import goals
from anycost.benchmarks.gpu.kernel_report import kernels
from anycost.benchmarks.gpu.machine import Rates

BASELINE = "eager"
Values = Mapping[str, Any]


def markdown(values: Values) -> str:
    """Of a result that may still lack any of its parts."""
    lines = [
        *_heading(values),
        *_backends(values),
        *_figures(values),
        *goals(values),
        *_memory(values),
        *_without(values),
    ]
    lines += kernels(values)
    return "\n".join(lines) + "\n"


def _heading(values: Values) -> Iterator[str]:
    settings, device = values["settings"], values.get("device", {})
    capability = device.get("capability")
    name = device.get("name", settings["device"])
    if capability:
        name += f" (compute capability {capability[0]}.{capability[1]}, {device['memory_bytes'] / 2**30:.0f} GiB)"
    versions = [f"{package} {version}" for package, version in settings["software"].items() if version]
    driver = device.get("driver_version")
    yield f"# {name}"
    yield ""
    yield (
        f"{settings['model']}, {settings['precision']} (the paper's form in float32), from w+ with stored noise. "
        + (f"Driver {driver}, {device.get('driver_runs', '')}; " if driver else "")
        + ", ".join(versions)
        + "."
    )
    rates = values.get("rates")
    if rates:
        yield (
            f"The device's own rates in this run: {rates['matmul_tflops']:.4g} TFLOP/s in half-precision matrix products, "
            + (f"{rates['vector_tflops']:.4g} in those of float32, " if rates.get("vector_tflops") else "")
            + f"{rates['copy_gbps']:.4g} GB/s in copies within its memory (read and written)."
        )
    tests = values.get("tests")
    if tests:
        counted = ", ".join(f"{tests[kind]} {kind}" for kind in ("passed", "failed", "errors", "skipped"))
        yield f"GPU tests: {tests['reason'] or counted}."
    yield ""


def _backends(values: Values) -> Iterator[str]:
    probes = values.get("backends", {})
    if not probes:
        return
    yield "| backend | built for | builds | runs | PSNR dB | what happened |"
    yield "|---|---|---|---|---:|---|"
    for backend, tried in probes.items():
        for one in tried:
            parity = f"{one['parity']['psnr_db']:.0f}" if one.get("parity") else "-"
            said = one.get("reason") or one.get("unusable") or "as it should"
            built, runs = ("yes" if one.get(step) else "no" for step in ("built", "runs"))
            yield f"| {backend} | {one.get('target') or '-'} | {built} | {runs} | {parity} | {_cell(said)} |"
    yield ""


def _figures(values: Values) -> Iterator[str]:
    measured = [(name, entry, row) for name, entry in values["contenders"].items() for row in entry.get("figures", [])]
    if not measured:
        return
    yield "Milliseconds: p50 / p95. Device: between two events on the stream; wall: until the device is done; with copies: from"
    yield "NumPy to NumPy. Shares: of the device's own rates, of the least work and traffic of the network, whatever was done."
    yield ""
    yield (
        "| sub-network | batch | contender | device | wall | with copies | against eager | of matmul | of copy | PSNR dB | MB |"
    )
    yield "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    base = {(row["subnet"], row["batch"]): _main(row) for name, _, row in measured if name == BASELINE}
    order = {subnet: i for i, subnet in enumerate(values["settings"]["subnets"])}
    for name, entry, row in sorted(measured, key=lambda one: (order.get(one[2]["subnet"], 0), one[2]["batch"])):
        subnet, batch = row["subnet"], row["batch"]
        about = entry["subnets"].get(subnet, {})
        against = base.get((subnet, batch))
        ratio = f"{against / _main(row):.1f} x" if against else "-"
        matmul, copy = (f"{row[share]:.1%}" if share in row else "-" for share in ("of_matmul", "of_copy"))
        parity = f"{about['parity']['psnr_db']:.0f}" if about else "-"
        used = f"{about['memory']['used'] / 1e6:.0f}" if about else "-"
        times = " | ".join(_times(row[kind]) for kind in ("device", "wall", "host"))
        yield f"| {subnet} | {batch} | {name} | {times} | {ratio} | {matmul} | {copy} | {parity} | {used} |"
    yield ""


def _memory(values: Values) -> Iterator[str]:
    held = {name: entry["all"] for name, entry in values["contenders"].items() if entry.get("all")}
    if not any(memory.get("used") for memory in held.values()):
        return
    yield "MB of the device with all sub-networks loaded; engines of one backend share the weights that they bind alike."
    yield ""
    yield "| contender | in use | what each engine needs, added | weights shared |"
    yield "|---|---:|---:|---:|"
    for name, memory in held.items():
        cells = [f"{memory[key] / 1e6:.0f}" if key in memory else "-" for key in ("used", "engine", "shared")]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""


def _without(values: Values) -> Iterator[str]:
    """Every contender, or sub-network of one, that has no figures, with its reason."""
    found = []
    for name, entry in values["contenders"].items():
        if entry.get("reason"):
            found.append(f"- {name} ({entry['state']}): {entry['reason']}")
        found += [f"- {name}, {subnet}: {reason}" for subnet, reason in entry.get("failed", {}).items()]
    if found:
        yield "Not measured, or not whole:"
        yield ""
        yield from found
        yield ""


def shares(values: Values, row: Values) -> dict[str, float]:
    """Of the device's matrix product rate and of its copy rate, to four digits."""
    effort = Effort(**values["effort"][row["subnet"]])
    matmul, copy = effort.shares(row["batch"], _main(row), Rates(**values["rates"]))
    return {"of_matmul": float(f"{matmul:.4g}"), "of_copy": float(f"{copy:.4g}")}


def _main(row: Values) -> float:
    """Milliseconds that ratios are of: on the device where there are such, else with copies."""
    time: float = (row["device"] or row["host"])["p50"]
    return time


def _times(times: Values | None) -> str:
    return f"{times['p50']:.3g} / {times['p95']:.3g}" if times else "-"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
