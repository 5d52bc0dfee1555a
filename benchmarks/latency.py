"""Latency of sub-networks: the paper's formulation and ours, on the same machine in one run.

    python -m benchmarks.latency --random-init config-f --subnets 0.25@256,0.5@512,1@1024 --output benchmarks/results

Writes latency.json, latency.md (a table with ratios) and latency.png into the output folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import anycost
from anycost.benchmarks import latency_report
from anycost.benchmarks.contenders import CONTENDERS
from anycost.benchmarks.settings import SETTINGS
from anycost.errors import AnycostError
from anycost.export.build import Plan, build
from anycost.export.variants import Variant
from anycost.networks.channels import SubnetError, macs, parse_subnets
from anycost.progress import bar
from anycost.runtime.profile import default_threads, device_name
from anycost.tables import console
from anycost.weights import catalogue
from anycost.weights.checkpoint import read
from anycost.weights.random_init import random_checkpoint


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="avatars", help="a checkpoint file or a model's name")
    parser.add_argument("--random-init", help="random weights of a known shape instead, such as config-f")
    parser.add_argument("--subnets", default="grid", help="grid, or RATIO@RESOLUTION separated by commas")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="separated by commas (default: all)")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--bundle", type=Path, help="keep the bundle here, or go on with the one that is there")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    try:
        return _run(args)
    except (AnycostError, SubnetError) as error:
        print(f"latency: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    contenders = [name.strip() for name in args.contenders.split(",")]
    unknown = [name for name in contenders if name not in CONTENDERS]
    if unknown:
        raise AnycostError(f"contender {unknown[0]!r} is unknown: choose from {', '.join(CONTENDERS)}")
    torch.set_num_threads(args.threads)
    checkpoint = random_checkpoint(args.random_init) if args.random_init else read(catalogue.resolve(args.model))
    subnets = parse_subnets(args.subnets, checkpoint.arch)
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.bundle or Path(scratch) / "bundle"
        with bar(console(stderr=True), "building", quiet=False) as progress:
            engines = [Variant("onnxruntime"), Variant("openvino"), Variant("openvino", "bf16")]
            plan = Plan("benchmark", subnets, engines, threads=args.threads)
            build(checkpoint, plan, folder, progress)
        SETTINGS.generator, SETTINGS.runtime = checkpoint.generator(), anycost.open(folder, threads=args.threads)
        SETTINGS.subnets, SETTINGS.contenders, SETTINGS.threads = subnets, contenders, args.threads
        raw = Path(scratch) / "raw.json"
        code = pytest.main(
            [
                str(Path(__file__).with_name("latency_cases.py")),
                "-p",
                "no:cacheprovider",
                "--import-mode=importlib",
                "-v",
                "--no-header",
                "--benchmark-columns=median,iqr,rounds",
                "--benchmark-sort=fullname",
                f"--benchmark-json={raw}",
                "-c",
                "/dev/null",
                "--rootdir",
                str(Path(__file__).parents[1]),
            ]
        )
        if not raw.exists() or not raw.read_text().strip():
            raise AnycostError("the benchmark was stopped before it had a result")
        measured = json.loads(raw.read_text())
    result = {
        "device": device_name(),
        "threads": args.threads,
        "torch": torch.__version__,
        "model": args.random_init or args.model,
        "gemm_gflops": {name: round(rate, 1) for name, rate in SETTINGS.gemm_gflops.items()},
        "macs": {net.name: macs(net, checkpoint.arch.style_dim) for net in subnets},
        "rows": [
            {
                "subnet": entry["extra_info"]["subnet"],
                "contender": entry["extra_info"]["contender"],
                "median_ms": round(entry["stats"]["median"] * 1e3, 3),
                "iqr_ms": round(entry["stats"]["iqr"] * 1e3, 3),
                "rounds": entry["stats"]["rounds"],
                "prepare_s": round(entry["extra_info"]["prepare_s"], 2),
            }
            for entry in measured["benchmarks"]
        ],
    }
    latency_report.write(result, args.output)
    print((args.output / "latency.md").read_text())
    return 0 if code == 0 else 2


if __name__ == "__main__":
    sys.exit(main())
