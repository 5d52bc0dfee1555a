"""The steps of a run, each kept when it is done."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anycost.benchmarks.gpu import gpu_tests
from anycost.benchmarks.gpu.contenders import CONTENDERS, Kind
from anycost.benchmarks.gpu.device import describe, plain, software
from anycost.benchmarks.gpu.effort import effort
from anycost.benchmarks.gpu.job import Job
from anycost.benchmarks.gpu.kernel_step import TRITON_MISSING, flawed_kernels, measure_kernels
from anycost.benchmarks.gpu.processes import Outcome, run
from anycost.benchmarks.gpu.results import MEASURED, UNFINISHED, Results, Settings, flawed
from anycost.errors import BackendError, InputError
from anycost.networks.channels import Architecture, Subnet, parse_subnets
from anycost.runtime import backends
from anycost.runtime.profile import cache_folder

DEFAULT_MODEL, DEFAULT_PRECISION = "avatars", "fp16"
_LARGEST_BATCH = 256
# Sub-networks of the full shape of FFHQ, cheapest first.
_AT_1024 = "0.25@256,0.5@512,0.75@1024,1@1024"
_DRY = "0.25@8"
# A process with less time than this has none for its figures.
_LEAST_S = 20.0
_PROBE_S = 300.0
_TIME_UP = "the time of the whole run was up: the same command goes on"


class Bench:
    """args: as ``python -m benchmarks.gpu`` parses them. Raises InputError, CheckpointError, SubnetError for what they name."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.dry: bool = args.dry_run
        self._deadline = time.monotonic() + 60 * args.minutes
        self.kernels: str = args.kernels or ("without" if args.contenders else "with")
        self.contenders = _contenders(args.contenders, self.dry) if self.kernels != "only" else {}
        model, random_init = args.model, args.random_init
        if not model and not random_init:
            model = DEFAULT_MODEL
        job = Job(
            "", "", model, random_init, (), _batches(args.batches), args.precision, "", "", args.threads, 0, self.dry
        )
        checkpoint = job.checkpoint()
        arch = checkpoint.arch
        nets = parse_subnets(args.subnets, arch) if args.subnets else default_subnets(arch, self.dry)
        self.device = describe(self.dry)
        # Engines know by themselves whether they are still of what they were made from; figures do not.
        folder = (args.work or cache_folder() / "gpu-benchmark").resolve() / checkpoint.sha256[:16]
        self.job = replace(
            job,
            subnets=tuple(net.name for net in nets),
            target=self.device["target"],
            folder=str(folder),
            seconds=args.seconds,
        )
        settings = Settings(
            model=f"random {random_init}" if random_init else str(model),
            checkpoint=checkpoint.sha256,
            subnets=self.job.subnets,
            batches=self.job.batches,
            precision=args.precision,
            seconds=args.seconds,
            device=self.device["name"],
            software=software(),
        )
        path = args.output / f"{file_name(self.device['name'], model, random_init, args.precision)}.json"
        self.results = Results(path, settings, args.refresh, tuple(CONTENDERS))
        if self.results.continued:
            _say(f"going on with {path}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be made: {error.strerror}: give another with --work") from None
        if args.refresh:
            self.job.reference.unlink(missing_ok=True)
        efforts = {net.name: asdict(effort(net, arch.style_dim, args.precision)) for net in nets}
        self.results.keep(device=self.device, effort=efforts)

    def run(self) -> int:
        """The exit code. Raises BackendError where the device cannot be used or the reference not be made."""
        values = self.results.values
        if self.args.tests and (self.args.retry or "tests" not in values):
            _say("tests")
            self.results.keep(tests=gpu_tests.run_tests(gpu_tests.TESTS, min(self._left(), 60 * self.args.limit)))
        if "rates" not in values:
            (found,) = self._required("device", "the device cannot be used").of("device")
            self.results.keep(**found)
        self._probe()
        pending = [name for name in self.contenders if self._pending(name)]
        if pending:
            self._required("reference", "the reference cannot be made")
        for name in pending:
            self._measure(name)
        if self.kernels != "without":
            self._kernels()
        print(self.results.path.with_suffix(".md").read_text())
        return self._code()

    def _code(self) -> int:
        entries = list(self.results.contenders.values())
        kernels, tests = self.results.values.get("kernels"), self.results.values.get("tests", {})
        states = [entry["state"] for entry in (*entries, *([kernels] if kernels else []))]
        if MEASURED not in states:
            return 2
        failed = tests.get("failed") or tests.get("errors") or tests.get("reason")
        return 1 if failed or any(map(flawed, entries)) or (kernels and flawed_kernels(kernels)) else 0

    def _kernels(self) -> None:
        left = self._left()
        if left < _LEAST_S:
            entry = self.results.values.get("kernels", {"layers": [], "rows": {}})
            self.results.keep(kernels=entry | {"state": UNFINISHED, "reason": _TIME_UP})
            return
        _say("kernels")
        measure_kernels(self.job, self.results, run, min(left, 60 * self.args.limit), self.args.retry)
        entry = self.results.values["kernels"]
        _say(f"kernels {entry['state']}{': ' + entry['reason'] if entry['reason'] else ''}")

    def _required(self, kind: str, without: str) -> Outcome:
        _say(kind)
        outcome = run(replace(self.job, kind=kind, name="all"), self._left())
        if outcome.reason or not outcome.of(kind):
            raise BackendError(f"{without}: {outcome.reason or 'its process told nothing'}")
        return outcome

    def _probe(self) -> None:
        """One tiny engine for each backend; what this device cannot do is known before anything large is built."""
        known: dict[str, Any] = {} if self.args.retry else self.results.values.get("backends", {})
        for kind in self.contenders.values():
            backend = kind.backend
            if not backend or (_settled(known.get(backend, [])) and backends.installed(backend)):
                continue
            reason = without(kind, self.dry)
            tried: list[dict[str, Any]] = []
            if not reason:
                _say(f"backend {backend}")
                left = self._left()
                outcome = run(replace(self.job, kind="probe", name=backend), min(_PROBE_S, left))
                tried, reason = outcome.of("probe"), outcome.reason
                if outcome.late and left < _PROBE_S:
                    reason = _TIME_UP
            if reason:
                tried.append({"target": self.job.target, "built": False, "runs": False, "reason": reason})
            known = known | {backend: tried}
            self.results.keep(backends=known)

    def _pending(self, name: str) -> bool:
        """Whether a contender can run here and has to; where it cannot, that is written down."""
        kind = self.contenders[name]
        reason = without(kind, self.dry)
        if kind.backend and not reason and self._target(kind) is None:
            tried = self.results.values["backends"][kind.backend]
            reason = tried[0]["reason"] or "no engine of it runs here"
            if not _settled(tried):
                self.results.unfinished(name, _TIME_UP)
                return False
        if reason:
            self.results.unavailable(name, reason)
            return False
        return not self.results.settled(name, self.args.retry)

    def _target(self, kind: Kind) -> str | None:
        """What engines of a backend are built for here: the first target whose tiny engine gave the right image."""
        tried = self.results.values["backends"][kind.backend]
        return next((one["target"] for one in tried if one["runs"] and not one["reason"]), None)

    def _measure(self, name: str) -> None:
        left, own = self._left(), 60 * self.args.limit
        if left < _LEAST_S:
            self.results.unfinished(name, _TIME_UP)
            return
        _say(f"contender {name}")
        kind = self.contenders[name]
        target = self._target(kind) if kind.backend else None
        job = replace(self.job, kind="contender", name=name, target=target or self.job.target)
        outcome = run(job, min(own, left))
        cut = outcome.late and left < own
        self.results.outcome(name, replace(outcome, reason=_TIME_UP) if cut else outcome, cut)
        entry = self.results.contenders[name]
        reason = f": {entry['reason']}" if entry["reason"] else ""
        _say(f"contender {name} {entry['state']} after {entry['seconds']:.0f} s{reason}")

    def _left(self) -> float:
        return max(1.0, self._deadline - time.monotonic())


def file_name(device: str, model: str | None, random_init: str | None, precision: str) -> str:
    """One file a device for what is measured by default; others say what they are of."""
    parts = ["gpu", plain(device)]
    if random_init or model != DEFAULT_MODEL:
        parts.append(plain(random_init or Path(model or "").stem))
    return "-".join(parts + ([precision] if precision != DEFAULT_PRECISION else []))


def default_subnets(arch: Architecture, dry: bool) -> list[Subnet]:
    """Four that span the generator: narrowest and widest at the lowest and the highest resolution of its grid."""
    if dry:
        return parse_subnets(_DRY, arch)
    if arch.resolution == 1024:
        return parse_subnets(_AT_1024, arch)
    grid = arch.grid()
    sides = sorted({net.resolution for net in grid})
    corners = {
        arch.subnet(side, ratio).name: arch.subnet(side, ratio) for side in (sides[0], sides[-1]) for ratio in (0.25, 1)
    }
    return list(corners.values())


def without(kind: Kind, dry: bool) -> str:
    """Why a contender cannot run here, as far as no process is needed to know; else empty."""
    if kind.backend:
        try:
            backends.require(kind.backend)
        except BackendError as error:
            return str(error)
    if kind.triton and find_spec("triton") is None:
        return TRITON_MISSING
    return "it needs a GPU, and this is a dry run" if dry and kind.place == "gpu" else ""


def _settled(tried: list[dict[str, Any]]) -> bool:
    """Whether a backend was tried to the end."""
    return bool(tried) and all(one["reason"] != _TIME_UP for one in tried)


def _contenders(text: str | None, dry: bool) -> dict[str, Kind]:
    allowed = {name: kind for name, kind in CONTENDERS.items() if dry or kind.place != "dry"}
    if text is None:
        return allowed
    wanted = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in allowed]
    if unknown or not wanted:
        raise InputError(f"contender {(unknown or [text])[0]!r} is unknown here: choose from {', '.join(allowed)}")
    return {name: kind for name, kind in allowed.items() if name in wanted}


def _batches(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= _LARGEST_BATCH for part in parts):
        raise InputError(
            f"batches {text!r} are not numbers from 1 to {_LARGEST_BATCH} separated by commas, such as 1,8"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def _say(what: str) -> None:
    print(f"gpu: {what}", file=sys.stderr, flush=True)
