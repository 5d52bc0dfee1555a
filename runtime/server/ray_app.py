"""The same application on Ray Serve: replicas on the nodes of a cluster, each with its own queue, workers and controller.

Serve's proxies share requests out among replicas, and its controller starts lost ones again; what a request may cost and what is
refused is decided in the replica, as on one machine. ray_proxy.py stands before the proxies: a lost replica costs no request.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from anycost.errors import BackendError, InputError
from anycost.runtime.bundle import Bundle, open_bundle
from anycost.runtime.profile import cache_folder, stored_profile
from anycost.runtime.server import logs, ray_proxy
from anycost.runtime.server.app import create_app
from anycost.runtime.server.ray_bundle import Depot, local_bundle, one_at_a_time
from anycost.runtime.server.run import listen
from anycost.runtime.server.settings import Settings
from anycost.runtime.usable import GPU_BACKENDS

APPLICATION = "anycost"
MOST_REPLICAS = 1000
# Requests at a replica beyond those that may wait there: it answers them 503 itself.
_BEYOND_QUEUE = 16
UPSCALE_S, DOWNSCALE_S = 10, 120


@dataclass(frozen=True)
class Cluster:
    """Where the replicas run. Raises InputError for numbers out of range.

    address: of a running cluster (``auto`` finds this machine's), None for a new one on this machine. least, most: replicas;
    Serve adds and takes away between them by load. most None: as many as the cluster has room for. cpus, gpus: of each replica;
    None for a GPU each where the bundle has engines for them and the cluster has any, else all cores of a node.
    """

    address: str | None = None
    least: int = 1
    most: int | None = None
    cpus: float | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        most = MOST_REPLICAS if self.most is None else self.most
        if not 1 <= self.least <= most <= MOST_REPLICAS:
            raise InputError(f"replicas {self.least}:{self.most} do not rise within 1..{MOST_REPLICAS}")
        for name, value in (("cpus", self.cpus), ("gpus", self.gpus)):
            if value is not None and not 0 <= value <= 1024:
                raise InputError(f"{name} {value:g} of a replica are outside 0..1024")


@dataclass(frozen=True)
class Share:
    """What one replica gets, and how many there can be."""

    cpus: float
    gpus: float
    most: int


def parse_replicas(text: str) -> tuple[int, int | None]:
    """``2`` (always two), ``1:8`` or ``1:`` (as many as there is room for). Raises InputError."""
    first, colon, last = text.partition(":")
    if not (first.isascii() and first.isdigit()) or (last and not (last.isascii() and last.isdigit())):
        raise InputError(f"replicas {text!r} are not a number, or LEAST:MOST such as 1:8")
    return int(first), (int(last) if last else None) if colon else int(first)


def share(nodes: list[dict[str, float]], cluster: Cluster, wants_gpu: bool, settings: Settings) -> Share:
    """nodes: CPU and GPU of each, as Ray counts them. wants_gpu: whether the bundle has engines for GPUs."""
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    gpus = cluster.gpus if cluster.gpus is not None else float(bool(wants_gpu and with_gpus))
    used = with_gpus if gpus else nodes
    # Of GPUs that share a node, each replica gets its part of the cores.
    rooms = [node.get("CPU", 0.0) * (min(1.0, gpus / node["GPU"]) if gpus else 1.0) for node in used]
    cpus = cluster.cpus
    if cpus is None and settings.threads is not None:
        cpus = float(settings.threads * settings.workers)
    if cpus is None:
        cpus = float(int(min([room for room in rooms if room >= 1], default=1.0)))
    fits = 0
    for node in used:
        limits = [node.get("CPU", 0.0) / cpus] if cpus else []
        limits += [node.get("GPU", 0.0) / gpus] if gpus else []
        fits += int(min(limits)) if limits else 1
    most = cluster.most if cluster.most is not None else max(cluster.least, fits)
    return Share(cpus, gpus, most)


def application(settings: Settings, sha256: str, cluster: Cluster, part: Share, depot: Any, measure: bool) -> Any:
    """The Serve application. sha256: of the bundle's manifest."""
    from ray import serve

    threads = settings.threads or max(1, int(part.cpus) // settings.workers)
    told = replace(settings, bundle=Path(settings.bundle).resolve(), threads=threads)

    def build() -> FastAPI:
        # Serve calls this on the loop of the replica, where nothing may wait.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(replica_app, told, sha256, depot, measure).result()

    ongoing = settings.queue + settings.max_batch + _BEYOND_QUEUE
    options: dict[str, Any] = {
        "name": APPLICATION,
        "ray_actor_options": {"num_cpus": part.cpus, "num_gpus": part.gpus},
        "max_ongoing_requests": ongoing,
        "graceful_shutdown_timeout_s": settings.drain_s,
        "health_check_period_s": 5,
        "health_check_timeout_s": 30,
    }
    if part.most == cluster.least:
        options["num_replicas"] = cluster.least
    else:
        options["autoscaling_config"] = {
            "min_replicas": cluster.least,
            "initial_replicas": cluster.least,
            "max_replicas": part.most,
            # So many make a batch.
            "target_ongoing_requests": settings.max_batch,
            "upscale_delay_s": UPSCALE_S,
            "downscale_delay_s": DOWNSCALE_S,
        }
    return serve.deployment(**options)(serve.ingress(build)()).bind()


def replica_app(settings: Settings, sha256: str, depot: Any, measure: bool) -> FastAPI:
    """What runs in a replica: the node's copy of the bundle, measured once a node, and the application over it."""
    from anycost.runtime.runtime import Runtime

    logs.set_up(logging.WARNING)
    bundle = open_bundle(local_bundle(str(settings.bundle), sha256, depot))
    threads = settings.worker_threads
    if measure and bundle.manifest.generator is not None:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with one_at_a_time(cache_folder() / "measuring.lock"):
            runtime = Runtime(bundle, threads=threads)
            if runtime.unmeasured(settings.budget):
                runtime.profile(parts=False)
    return create_app(replace(settings, bundle=bundle.folder), bundle=bundle, profile=stored_profile(bundle, threads))


def start(settings: Settings, cluster: Cluster, bundle: Bundle, *, measure: bool = True) -> str:
    """Deploy, and wait until a replica answers. -> the address. ``stop`` ends it.

    Raises BackendError without ray[serve], for a cluster that cannot be reached or that runs Serve already, and where no
    replica starts; InputError for a port in use.
    """
    try:
        import ray
        from ray import serve
    except ImportError as error:
        raise BackendError(
            f"--ray needs {error.name}, which is not installed: pip install 'anycost-runtime[ray]'"
        ) from None
    with listen(settings) as socket:  # Serve says less when a port is taken
        host, port = socket.getsockname()[:2]
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    _connect(ray, cluster, settings)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    wants_gpu = any(engine.backend in GPU_BACKENDS for engine in bundle.manifest.engines)
    part = share(nodes, cluster, wants_gpu, settings)
    depot = _depot(ray, bundle)
    try:
        serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
        target = application(settings, bundle.manifest_sha256, cluster, part, depot, measure)
        serve.run(target, name=APPLICATION, route_prefix="/")
    except Exception as error:
        reason = _last_words(serve) or " ".join(str(error).split())[:300]
        stop()
        raise BackendError(f"no replica could start: {reason}; Ray's logs say more") from None
    shown = f"[{host}]" if ":" in host else host
    logs.event("deployed", replicas=cluster.least, most=part.most, cpus=part.cpus, gpus=part.gpus)
    return f"http://{shown}:{port}"


def _last_words(serve: Any) -> str:
    """The last line of the trace that replicas left which could not start; empty where there is none."""
    try:
        told: str = serve.status().applications[APPLICATION].deployments[APPLICATION].message
    except Exception:  # whatever goes wrong here, it is not the reason
        return ""
    lines = [line.strip() for line in told.splitlines() if ": " in line]
    if not lines:
        return ""
    kind, _, reason = lines[-1].partition(": ")
    return (reason if kind.startswith("anycost.") else lines[-1])[:300]


def stop() -> None:
    """End the application, what it has accepted first, and leave the cluster; one that was started here ends too."""
    import ray
    from ray import serve

    if ray.is_initialized():
        # First the replicas alone, each when it is done; the proxies answer 503 meanwhile.
        serve.delete(APPLICATION)
        serve.shutdown()
        ray.shutdown()
    for name in (ray_proxy.CALLBACK_VARIABLE, ray_proxy.BODY_VARIABLE):
        os.environ.pop(name, None)


def run(settings: Settings, cluster: Cluster, bundle: Bundle, *, measure: bool = True) -> None:
    """``start``, and ``stop`` on SIGTERM or SIGINT."""
    logs.set_up()
    ended = threading.Event()
    address = start(settings, cluster, bundle, measure=measure)
    for kind in (signal.SIGTERM, signal.SIGINT):  # after Ray, whose own handlers end the process at once
        signal.signal(kind, lambda *_: ended.set())
    print(f"anycost: {bundle.manifest.name} at {address}, on Ray Serve", file=sys.stderr, flush=True)
    while not ended.wait(1):  # a signal wakes no wait without an end
        pass
    logs.event("draining")
    stop()
    logs.event("stopped")


def _connect(ray: Any, cluster: Cluster, settings: Settings) -> None:
    variables = {ray_proxy.CALLBACK_VARIABLE: ray_proxy.CALLBACK, ray_proxy.BODY_VARIABLE: str(settings.max_body)}
    given: dict[str, Any] = {"namespace": APPLICATION, "log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.address is None:
        # A new cluster's processes inherit them; without its dashboard it starts sooner.
        os.environ.update(variables)
        given |= {"address": "local", "include_dashboard": False}
    else:
        given |= {"address": cluster.address, "runtime_env": {"env_vars": variables}}
    try:
        ray.init(**given)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BackendError(f"Ray at {cluster.address or 'this machine'} did not start or answer: {reason}") from None
    try:
        _refuse_other_serve(ray)
    except BackendError:
        ray.shutdown()
        raise


def _depot(ray: Any, bundle: Bundle) -> Any:
    """The actor that has the files, on this node, which is the one that has them."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
    made = ray.remote(num_cpus=0)(Depot).options(scheduling_strategy=here)
    return made.remote(str(bundle.folder.resolve()))


def _refuse_other_serve(ray: Any) -> None:
    """Raises BackendError where Serve runs: its proxies were started without ``ray_proxy``."""
    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return
    raise BackendError(
        "this cluster runs Ray Serve already, whose proxies would lose requests with a replica: end it with 'serve shutdown', "
        "or use another cluster"
    )
