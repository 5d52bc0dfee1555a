"""The result of ``benchmarks.latency`` as JSON, Markdown and a chart."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OURS = ("ours -> onnxruntime", "ours -> openvino")
EXPORTED = ("paper -> onnxruntime", "paper -> openvino")
# Compared with each other: what is gained over float32 is the processor's.
EXPORTED_BF16, OURS_BF16 = "paper -> openvino bf16", "ours -> openvino bf16"


def write(result: Mapping[str, Any], folder: Path) -> None:
    (folder / "latency.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "latency.md").write_text(markdown(result))
    chart(result, folder / "latency.png")


def medians(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Milliseconds by sub-network and contender, in the order they ran."""
    found: dict[str, dict[str, float]] = {}
    for row in result["rows"]:
        found.setdefault(row["subnet"], {})[row["contender"]] = row["median_ms"]
    return found


def ratios(times: Mapping[str, float]) -> dict[str, float | None]:
    """How many times faster our best is in float32 than eager, torch.compile, and the better of the exported paper's formulation;
    and ours in bf16 than that formulation in bf16."""
    ours = min((times[name] for name in OURS if name in times), default=None)
    exported = min((times[name] for name in EXPORTED if name in times), default=None)
    others = {"eager": times.get("eager"), "torch.compile": times.get("torch.compile"), "best export": exported}
    found = {name: other / ours if ours and other else None for name, other in others.items()}
    if OURS_BF16 in times and EXPORTED_BF16 in times:
        found["best export in bf16"] = times[EXPORTED_BF16] / times[OURS_BF16]
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """A table of medians, ratios, and the fraction of the machine's own GEMM rate."""
    names = list(dict.fromkeys(row["contender"] for row in result["rows"]))
    rates = result["gemm_gflops"]
    lines = [
        f"Median milliseconds an image at batch 1, from w+; {result['model']}, {result['device']}, PyTorch {result['torch']}, "
        f"{result['threads']} threads. The machine's float32 GEMM rate, measured with each sub-network: "
        f"{_range(rates)} GFLOP/s.",
        "Ratios and the share of the GEMM rate are of our best in float32; with bf16 in their name, of both in bf16.",
        "",
    ]
    compared = list(dict.fromkeys(name for times in medians(result).values() for name in ratios(times)))
    lines += [
        "| sub-network | " + " | ".join([*names, *(f"vs {name}" for name in compared), "of GEMM rate"]) + " |",
        "|---|" + "---:|" * (len(names) + len(compared) + 1),
    ]
    for subnet, times in medians(result).items():
        ratio = ratios(times)
        best = min((times[name] for name in OURS if name in times), default=math.nan)
        fraction = 2 * result["macs"][subnet] / (best * 1e-3) / (rates[subnet] * 1e9) if subnet in rates else math.nan
        cells = [f"{times[name]:.1f}" if name in times else "-" for name in names]
        cells += [f"{ratio[name]:.1f} x" if ratio.get(name) else "-" for name in compared]
        cells.append("-" if math.isnan(fraction) else f"{fraction:.0%}")
        lines.append(f"| {subnet} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _range(rates: Mapping[str, float]) -> str:
    least, most = min(rates.values(), default=math.nan), max(rates.values(), default=math.nan)
    return f"{least:.0f}" if len(rates) < 2 else f"{least:.0f} to {most:.0f}"


def chart(result: Mapping[str, Any], path: Path) -> None:
    """Grouped bars on a logarithmic axis: one group a sub-network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    times = medians(result)
    names = list(dict.fromkeys(row["contender"] for row in result["rows"]))
    colours = {
        "eager": "#9aa0a6",
        "torch.compile": "#5f6368",
        EXPORTED[0]: "#f6c26b",
        EXPORTED[1]: "#e8912d",
        OURS[0]: "#7fb2f0",
        OURS[1]: "#1a66c9",
        EXPORTED_BF16: "#a85a12",
        OURS_BF16: "#0b3a75",
    }
    figure, axes = pyplot.subplots(figsize=(max(6.0, 1.1 * len(times) + 3), 4.5), layout="constrained")
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        at = [j + (i - (len(names) - 1) / 2) * width for j in range(len(times))]
        axes.bar(at, [row.get(name, math.nan) for row in times.values()], width, label=name, color=colours.get(name))
    axes.set_xticks(range(len(times)), list(times))
    axes.set_yscale("log")
    axes.set_ylabel("milliseconds an image (median)")
    axes.set_title(f"{result['model']}: channel ratio @ resolution, {result['threads']} CPU threads", fontsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, ncols=3)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
