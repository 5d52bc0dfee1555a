"""What a server can be told; the command line and create_app take nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from anycost.errors import InputError
from anycost.runtime.budget import Budget
from anycost.runtime.profile import default_threads

MOST_WORKERS = 64
LOCAL = ("localhost", "127.0.0.1", "::1")  # names of this machine's own


@dataclass(frozen=True)
class Settings:
    """A server over one bundle. Raises InputError for numbers out of range.

    budget: of requests that give none. threads: CPU threads of each worker (default: an equal share of this process's).
    queue: most requests that wait for a worker. max_batch: most images of one engine call. max_pixels: of a picture that is
    sent. max_images: of one request. per_client: requests of one address at the same time. deadline_ms: of requests that
    give none, and the most that one may give. token: what clients must send as bearer, None for no check.
    cors_origins: pages of other origins that may call, none by default. hosts: names that requests may call the server by, any
    where there are none. drain_s: how long a stopping server waits for what
    it has accepted.
    """

    bundle: Path
    host: str = "127.0.0.1"
    port: int = 8000
    budget: Budget = field(default_factory=Budget)
    workers: int = 1
    threads: int | None = None
    queue: int = 64
    max_batch: int = 8
    max_body_mb: float = 20
    max_pixels: int = 16_000_000
    max_images: int = 16
    per_client: int = 8
    deadline_ms: float = 10_000
    token: str | None = field(default=None, repr=False)
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    drain_s: float = 30

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "port": (0, 65535),
            "workers": (1, MOST_WORKERS),
            "queue": (1, 100_000),
            "max_batch": (1, 256),
            "max_body_mb": (0.001, 1000),
            "max_pixels": (1, 67_000_000),
            "max_images": (1, 256),
            "per_client": (1, 100_000),
            "deadline_ms": (1, 3_600_000),
            "drain_s": (0, 3600),
        }
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise InputError(f"{name} {getattr(self, name):g} is outside {least:g}..{most:g}")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise InputError(f"threads {self.threads} is outside 1..1024")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise InputError("the token is empty or holds characters that a header cannot carry: use printable ASCII")
        for origin in self.cors_origins:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise InputError(f"origin {origin!r} is not an address such as https://example.org")

        for name in self.hosts:
            if not name or set(name) & set("/@? ") or name != name.strip():
                raise InputError(f"host {name!r} is not a name such as images.example.org")

    @property
    def worker_threads(self) -> int:
        return self.threads or max(1, default_threads() // self.workers)

    @property
    def max_body(self) -> int:
        """In bytes."""
        return int(self.max_body_mb * 1e6)
