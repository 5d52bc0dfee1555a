"""What a bundle takes: python -m benchmarks.footprint BUNDLE [-o FOLDER]

On disk by what it is for, against the full generator's weights in half precision; and resident memory with one engine of each
variant loaded (the largest) and with all of them, each in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from anycost.errors import AnycostError
from anycost.runtime import backends
from anycost.runtime.bundle import Bundle, open_bundle, read_manifest
from anycost.runtime.latents import noise_sides
from anycost.runtime.profile import default_threads
from anycost.runtime.usable import unusable

# What a variant keeps beside the weights file: files that hold no graph.
CONSTANTS = ("constants.bin",)


def disk(bundle: Bundle) -> dict[str, Any]:
    """Bytes: total, weights, references, others, and of each variant its engines, how many, and constants among them that no
    weight makes. ratio: total over the generator's elements at two bytes."""
    manifest = bundle.manifest
    files = manifest.all_files()
    variants: dict[str, dict[str, int]] = {}
    for engine in manifest.engines:
        found = variants.setdefault(engine.variant, {"engines": 0, "bytes": 0, "constants": 0})
        found["engines"] += 1
        found["bytes"] += engine.size
        found["constants"] += sum(engine.files[name].size for name in CONSTANTS if name in engine.files)
    total = sum(file.size for file in files.values())
    weights = sum(file.size for path, file in files.items() if path.startswith("weights/"))
    references = sum(file.size for path, file in files.items() if path.startswith("reference/"))
    engines = sum(variant["bytes"] for variant in variants.values())
    with safe_open(bundle.path(bundle.generator.weights), framework="numpy") as file:
        elements = sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    return {
        "total": total,
        "weights": weights,
        "references": references,
        "others": total - weights - references - engines,
        "variants": variants,
        "full_half": 2 * elements,
        "ratio": round(total / (2 * elements), 3),
    }


def memory(bundle: Bundle, variant: str, every: bool, threads: int) -> float:
    """Resident 10^6 bytes after loading the largest sub-network's engine of a variant, or every one, and running each once."""
    nets = sorted(bundle.generator.subnets, key=lambda net: net.macs)
    kept = []
    for net in nets if every else nets[-1:]:
        (engine,) = (engine for engine in bundle.engines(net.name) if engine.variant == variant)
        loaded = backends.load(engine.backend, bundle.path(engine.folder), bundle.weights().bind, threads)
        arch = bundle.generator.architecture
        inputs = {"w_plus": np.zeros((1, arch.n_style, arch.style_dim), np.float32)}
        if bundle.generator.noise == "input":
            for i, side in enumerate(noise_sides(net.resolution)):
                inputs[f"noise_{i}"] = np.zeros((1, 1, side, side), np.float32)
        loaded.run(inputs)
        kept.append(loaded)
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    raise AnycostError("resident memory is read from /proc, which this system does not have")


def measured(bundle: Bundle, threads: int) -> dict[str, dict[str, float | str]]:
    """``memory`` of every variant, in processes of their own; why, where one cannot run here."""
    found: dict[str, dict[str, float | str]] = {}
    for engine in bundle.manifest.engines:
        if engine.variant in found or engine.network not in {net.name for net in bundle.generator.subnets}:
            continue
        if reason := unusable(engine):
            found[engine.variant] = {"skipped": reason}
            continue
        values: dict[str, float | str] = {}
        for which in ("one", "all"):
            print(f"measuring {engine.variant}, {which}", file=sys.stderr)
            command = [sys.executable, "-m", "anycost.benchmarks.footprint", str(bundle.folder), "--of", engine.variant]
            command += ["--which", which, "--threads", str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise AnycostError(f"{engine.variant} could not be measured: {done.stderr.strip().splitlines()[-1]}")
            values[which] = float(done.stdout)
        found[engine.variant] = values
    return found


def table(disk: dict[str, Any], memory: dict[str, dict[str, float | str]]) -> str:
    def megabytes(count: int) -> str:
        return f"{count / 1e6:.1f}"

    lines = [
        "| part | MB on disk | of it constants that no weight makes | MB resident, one engine | all engines |",
        "|---|---:|---:|---:|---:|",
        f"| weights, once | {megabytes(disk['weights'])} | | | |",
        f"| reference samples | {megabytes(disk['references'])} | | | |",
    ]
    for name, variant in disk["variants"].items():
        seen = memory.get(name, {})
        resident = [f"{seen[which]:.0f}" if which in seen else "not run here" for which in ("one", "all")]
        constants = megabytes(variant["constants"])
        lines.append(
            f"| {variant['engines']} engines, {name} | {megabytes(variant['bytes'])} | {constants} | {' | '.join(resident)} |"
        )
    lines += [
        f"| manifest, codes, directions | {megabytes(disk['others'])} | | | |",
        f"| **together** | **{megabytes(disk['total'])}** | | | |",
        "",
        f"{disk['ratio']} times the full generator's weights in half precision ({megabytes(disk['full_half'])} MB).",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.footprint", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="folder for footprint.json and footprint.md")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--of", help=argparse.SUPPRESS)
    parser.add_argument("--which", choices=("one", "all"), default="one", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    try:
        if args.of:  # A process of its own; the first one has checked the files.
            manifest, sha256 = read_manifest(args.bundle)
            print(memory(Bundle(args.bundle, manifest, sha256), args.of, args.which == "all", args.threads))
            return 0
        bundle = open_bundle(args.bundle)
        stored, resident = disk(bundle), measured(bundle, args.threads)
    except AnycostError as error:
        print(f"footprint: {error}", file=sys.stderr)
        return 2
    text = table(stored, resident)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        values = {"bundle": bundle.manifest.name, "disk": stored, "memory": resident}
        (args.output / "footprint.json").write_text(json.dumps(values, indent=1) + "\n")
        (args.output / "footprint.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
