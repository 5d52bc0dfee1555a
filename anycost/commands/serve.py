"""Answering requests over HTTP: serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anycost.commands.shared import (
    BundleArgument,
    DistanceOption,
    LargestOption,
    LatencyOption,
    MemoryOption,
    NoMeasureOption,
    SmallestOption,
    app,
    err,
    limits,
)
from anycost.errors import BackendError, InputError
from anycost.progress import bar


@app.command()
def serve(
    bundle: BundleArgument,
    budget: LatencyOption = None,
    memory: MemoryOption = None,
    min_resolution: SmallestOption = None,
    max_resolution: LargestOption = None,
    max_distance: DistanceOption = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for a free one.")] = 8000,
    workers: Annotated[int, typer.Option(help="Processes that run engines.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="CPU threads of each worker (default: an equal share).")
    ] = None,
    queue: Annotated[int, typer.Option(help="Most requests that wait; the next is answered 503.")] = 64,
    max_batch: Annotated[int, typer.Option(help="Most images of one engine call.")] = 8,
    max_body: Annotated[float, typer.Option(help="Largest body of a request, in MB.")] = 20,
    max_pixels: Annotated[int, typer.Option(help="Most pixels of a picture that is sent.")] = 16_000_000,
    max_images: Annotated[int, typer.Option(help="Most images of one request.")] = 16,
    per_client: Annotated[int, typer.Option(help="Most requests of one address at a time.")] = 8,
    deadline: Annotated[str, typer.Option(help="Longest time for a request, such as 10s.")] = "10s",
    drain: Annotated[str, typer.Option(help="How long a stopping server waits for what it has accepted.")] = "30s",
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that clients must send as bearer.", show_default=False)
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(help="Origin whose pages may call; may be given again.", show_default=False)
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name that requests may call the server by; may be given again. Default: this machine's own, where it listens "
            "to no other and asks for no token.",
            show_default=False,
        ),
    ] = None,
    no_measure: NoMeasureOption = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="On Ray Serve: replicas of this server on the nodes of a cluster.")
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Of a running cluster; auto finds this machine's. Default: a new one.", show_default=False),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(
            help="With --ray: 2, or 1:8 by load, or 1: (the default) for all there is room for.", show_default=False
        ),
    ] = None,
    replica_cpus: Annotated[
        float | None, typer.Option(help="With --ray: cores of each (default: a node's).", show_default=False)
    ] = None,
    replica_gpus: Annotated[
        float | None,
        typer.Option(help="With --ray: GPUs of each (default: 1 where there are any).", show_default=False),
    ] = None,
) -> None:
    """Answer requests for images over HTTP: JSON, the Open Inference Protocol, and a web editor at /.

    Examples:

    - `anycost serve bundle/ --budget 60ms`
    - `anycost serve bundle/ --host 0.0.0.0 --port 80 --token-file token --workers 2`
    - `anycost serve bundle/ --ray --ray-address auto --replicas 2:16 --replica-cpus 4`
    - `curl -X POST localhost:8000/v1/generate -H 'Content-Type: application/json' -d '{"seeds": [0]}' -o 0.png`
    """
    from anycost.runtime.budget import parse_latency_ms
    from anycost.runtime.server.settings import LOCAL, Settings

    token = None if token_file is None else _token(token_file)
    # Any name, unless names were given, or nothing but the place keeps others out.
    own = LOCAL if host in LOCAL and (token is None or allow_host) else ()
    settings = Settings(
        bundle=bundle,
        host=host,
        port=port,
        budget=limits(budget, memory, min_resolution, max_resolution, max_distance),
        workers=workers,
        threads=threads,
        queue=queue,
        max_batch=max_batch,
        max_body_mb=max_body,
        max_pixels=max_pixels,
        max_images=max_images,
        per_client=per_client,
        deadline_ms=parse_latency_ms(deadline),
        token=token,
        cors_origins=tuple(cors or ()),
        hosts=(*own, *(allow_host or ())),
        drain_s=parse_latency_ms(drain) / 1e3,
    )
    cluster_options = (ray_address, replicas, replica_cpus, replica_gpus)
    if not ray and any(option is not None for option in cluster_options):
        raise InputError("--ray-address, --replicas, --replica-cpus and --replica-gpus are for --ray: add it")
    try:
        from anycost.runtime.server.run import listen, run
    except ImportError as error:
        raise BackendError(
            f"serve needs {error.name}, which is not installed: pip install 'anycost-runtime[serve]'"
        ) from None
    import anycost

    if ray:
        from anycost.runtime.bundle import open_bundle
        from anycost.runtime.server import ray_app

        least, most = ray_app.parse_replicas(replicas or "1:")
        cluster = ray_app.Cluster(ray_address, least, most, replica_cpus, replica_gpus)
        ray_app.run(settings, cluster, open_bundle(bundle), measure=not no_measure)
        return

    # First, since that is what is most often wrong, and known at once.
    with listen(settings) as socket:
        runtime = anycost.open(bundle, threads=settings.worker_threads)
        measure = not no_measure and runtime.bundle.manifest.generator is not None
        if measure and runtime.unmeasured(settings.budget):
            with bar(err, "measuring this device once", quiet=False) as progress:
                runtime.profile(parts=False, progress=progress)
        run(settings, socket, runtime.bundle, runtime.stored_profile)


def _token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"token {path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}"
        ) from None
