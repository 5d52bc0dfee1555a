"""A GPU that is not there, and what processes on it would have found."""

from anycost.benchmarks.gpu.job import Job
from anycost.benchmarks.gpu.processes import Outcome

GPU = {
    "name": "NVIDIA Card 9000 (PCIe)",
    "capability": [8, 9],
    "target": "sm_89",
    "memory_bytes": 24 << 30,
    "driver_runs": "CUDA 13.0",
    "driver_version": "580.1",
    "processor": "two",
}
TIMES = {"p50": 2.0, "p95": 3.0, "runs": 20}
PARITY = {"max_abs": 0.1, "psnr_db": 70.0, "ssim": 0.99}
MEMORY = {"used": 3_000_000, "allocated": 0, "engine": 2_000_000, "shared": 1_000_000}


def job(folder, kind="contender", **more):
    values = {"model": None, "random_init": "tiny", "subnets": ("0.25@8",), "batches": (1,), "precision": "fp16"}
    values |= {"target": "", "folder": str(folder), "threads": 1, "seconds": 0.01, "dry": True}
    return Job(kind, "eager", **(values | more))


def trial(target, **more):
    found = {"target": target, "unusable": "", "built": True, "runs": True, "parity": PARITY, "reason": ""}
    return {"kind": "probe"} | found | more


def kernels_found():
    row = {"operator": "to_rgb", "title": "4x4", "used": ["x"], "works": [], "candidates": {}, "failed": {}}
    return Outcome([{"kind": "cases", "keys": ["k"], "layers": []}, {"kind": "kernel", "key": "k"} | row], "", 1.0)


def figures(job, subnets=None, **more):
    found = []
    for subnet in subnets or job.subnets:
        for batch in job.batches:
            row = {"kind": "figures", "subnet": subnet, "batch": batch, "device": TIMES, "wall": TIMES, "host": TIMES}
            found.append(row)
        found.append({"kind": "subnet", "subnet": subnet, "parity": PARITY, "prepare_s": 1.0, "memory": MEMORY})
    found.append({"kind": "all", "memory": MEMORY})
    return Outcome(found, more.get("reason", ""), 2.0, more.get("late", False))
