"""Models by name: the embedded ones, and the four that the authors of Anycost GAN published."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from anycost.errors import CheckpointError, DownloadError
from anycost.runtime.files import record_of, write_whole
from anycost.runtime.profile import cache_folder
from anycost.weights import download

# kind is generator, encoder or boundary (arXiv 2103.03243, the authors' repository).
URL_TEMPLATE = "https://hanlab18.mit.edu/projects/anycost-gan/files/{kind}_{name}.pt"
URL_VARIABLE = "ANYCOST_MODEL_URL"
# The generator, its companions, the same people in another style, and two generators of digits.
EMBEDDED = (
    "avatars",
    "avatars-attributes",
    "avatars-encoder",
    "avatars-inpainting",
    "avatars-micah",
    "avatars-to-micah",
    "digits-dcgan",
    "digits-mlp",
    "micah-to-avatars",
)


@dataclass(frozen=True)
class Model:
    """A published model. subnets: grid, flexible (per-layer channels) or full (the full network alone)."""

    name: str
    resolution: int
    channel_multiplier: float
    subnets: str
    kinds: tuple[str, ...]

    def url(self, kind: str = "generator") -> str:
        """Its address; the environment variable ANYCOST_MODEL_URL replaces the template (``{kind}``, ``{name}``)."""
        template = os.environ.get(URL_VARIABLE) or URL_TEMPLATE
        return template.replace("{kind}", kind).replace("{name}", self.name)


MODELS = {
    model.name: model
    for model in (
        Model("anycost-ffhq-config-f", 1024, 2, "grid", ("generator", "encoder", "boundary")),
        Model("anycost-ffhq-config-f-flexible", 1024, 2, "flexible", ("generator", "encoder", "boundary")),
        Model("anycost-car-config-f", 512, 2, "grid", ("generator",)),
        Model("stylegan2-ffhq-config-f", 1024, 2, "full", ("generator", "encoder", "boundary")),
    )
}
Progress = Callable[[int, "int | None"], None]


def directions_of(text: str) -> Path | None:
    """The file of editing directions that an embedded model comes with, None for any other name."""
    return _beside(text, "directions.safetensors")


def quality_of(text: str) -> Path | None:
    """The file of what was measured of an embedded model's sub-networks, None for any other name."""
    return _beside(text, "quality.json")


def _beside(text: str, what: str) -> Path | None:
    if text not in EMBEDDED or Path(text).exists():
        return None
    with as_file(files("anycost.weights.embedded") / f"{text}.{what}") as found:
        return found if found.is_file() else None


def resolve(text: str, progress: Progress | None = None) -> Path:
    """A path as it is; else the file of a named model, fetched into the cache when it is not there yet.

    Raises CheckpointError with the names there are, DownloadError when it cannot be fetched.
    """
    path = Path(text)
    if path.exists():
        return path
    if text in EMBEDDED:
        with as_file(files("anycost.weights.embedded") / f"{text}.safetensors") as found:
            if not found.is_file():
                raise CheckpointError(
                    f"the embedded model {text} is not in this installation: install anycost-runtime again"
                )
            return found
    if text in MODELS:
        return fetch(MODELS[text], progress=progress)
    known = [*EMBEDDED, *MODELS]
    near = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known models are {', '.join(known)}"
    raise CheckpointError(f"{text} is neither a file nor a model's name: {hint}")


def fetch(model: Model, kind: str = "generator", progress: Progress | None = None) -> Path:
    """The cached file of a model, downloaded first if need be.

    The authors publish no hashes: the one seen at the first download is written beside the file, and a cached file that no
    longer has it is an error rather than a silent change.
    """
    target = cache_folder() / "models" / f"{kind}_{model.name}.pt"
    seen = target.with_name(target.name + ".json")
    if target.is_file():
        found = record_of(target)
        try:
            expected = json.loads(seen.read_text())
        except (OSError, ValueError):
            write_whole(seen, found.model_dump_json().encode())  # put there by hand
            return target
        if expected != found.model_dump():
            raise DownloadError(f"{target} has changed since it was fetched: delete it, and it is fetched again")
        return target
    download.fetch(model.url(kind), target, progress=progress)
    write_whole(seen, record_of(target).model_dump_json().encode())
    return target
