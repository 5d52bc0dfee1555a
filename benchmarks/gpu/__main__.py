"""All that is measured on a GPU, in one command: what runs there, parity, speed, memory, against PyTorch on the same device.

    python -m benchmarks.gpu --tests
    python -m benchmarks.gpu --random-init config-f --minutes 30
    python -m benchmarks.gpu --kernels

Writes gpu-DEVICE.json and gpu-DEVICE.md into the output folder, after every step: a run that is stopped goes on when the same
command runs again. Ends with 0, with 1 where something failed or the time was up, with 2 where nothing could be measured.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anycost.errors import AnycostError, BackendError, InputError
from anycost.networks.channels import SubnetError
from anycost.runtime.cuda.devices import devices
from anycost.runtime.profile import default_threads


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a checkpoint file or a model's name (default: avatars)")
    parser.add_argument("--random-init", help="random weights of a known shape instead, such as config-f")
    parser.add_argument(
        "--subnets",
        help="grid, or RATIO@RESOLUTION separated by commas (default: the grid's corners, at 1024 px its diagonal)",
    )
    parser.add_argument("--batches", default="1,8", help="separated by commas (default: 1,8)")
    parser.add_argument("--precision", default="fp16", choices=("fp16", "bf16", "fp32"))
    parser.add_argument("--contenders", help="separated by commas (default: all)")
    parser.add_argument(
        "--kernels",
        nargs="?",
        const="only",
        choices=("only", "with", "without"),
        help="the fused kernels one by one: only them (also as --kernels alone), with the contenders, or not at all "
        "(default: with, unless --contenders names some)",
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="of the whole run (default: 60)")
    parser.add_argument("--limit", type=float, default=15.0, help="minutes of one contender (default: 15)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing, for each figure (default: 2)")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--work", type=Path, help="folder for engines and logs (default: in the user's cache)")
    parser.add_argument("--tests", action="store_true", help="run pytest -m gpu first, and record its outcome")
    parser.add_argument("--retry", action="store_true", help="try again what failed")
    parser.add_argument("--refresh", action="store_true", help="begin anew")
    parser.add_argument("--dry-run", action="store_true", help="every step on the CPU, for a tiny sub-network")
    args = parser.parse_args(arguments)
    try:
        return _run(args)
    except (AnycostError, SubnetError) as error:
        print(f"gpu: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gpu: stopped; the same command goes on", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace) -> int:
    if not args.dry_run and not devices():
        raise BackendError(
            "no NVIDIA GPU or driver was found here, and this benchmark is of one (--dry-run needs none)"
        )
    if args.model and args.random_init:
        raise InputError("give either --model or --random-init")
    if not (args.minutes > 0 and args.limit > 0 and args.seconds > 0) or args.threads < 1:
        raise InputError("--minutes, --limit, --seconds and --threads must be positive")
    # After the checks, which need no PyTorch.
    from anycost.benchmarks.gpu.bench import Bench

    return Bench(args).run()


if __name__ == "__main__":
    sys.exit(main())
