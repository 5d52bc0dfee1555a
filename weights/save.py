"""Writing safetensors whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from anycost.errors import CheckpointError
from anycost.weights.formats import one_line


def save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Tensors in the order of their names, so that the same tensors give the same file. Raises CheckpointError when it cannot be written."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, temporary, dict(metadata))
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {one_line(error)}; free space or give another folder") from None
    finally:
        temporary.unlink(missing_ok=True)
