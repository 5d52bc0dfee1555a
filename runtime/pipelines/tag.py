"""Names of what is in a picture, and reading their list."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from anycost.errors import InputError
from anycost.runtime.networks import LoadedNetwork
from anycost.runtime.pipelines.attributes import strongest
from anycost.runtime.pipelines.common import BATCH, Images, check_kind, names_of, part_of, run_on

KIND = "tagger"
MOST_BYTES = 1 << 24
# Control and format characters, line and paragraph separators: they could move a terminal's cursor or turn the text round.
_UNSAFE = {"Cc", "Cf", "Zl", "Zp"}


def tag(
    network: LoadedNetwork,
    images: Images,
    threshold: float = 0.5,
    most: int | None = None,
    *,
    tags: Sequence[str] | None = None,
    fit: str = "pad",
    batch: int = BATCH,
) -> list[list[tuple[str, float]]]:
    """A picture or a list of N -> for each its tags of probability ``threshold`` or more, the most likely first, at most
    ``most``.

    tags: what the outputs are called, such as ``read_tags`` gives, instead of the record's labels. fit: the whole picture
    by default, as a tag may be about its edge. Raises InputError.
    """
    check_kind(network, KIND)
    strongest({}, threshold, most)  # a wrong argument is told before anything is run
    port = part_of(network).outputs[0]
    count = port.shape[0]
    if tags is not None and (len(tags) != count or len(set(tags)) != count):
        raise InputError(
            f"{len(set(tags))} different tags for the {count} outputs of {network.record.name}: "
            "give the list that it was trained with"
        )
    names = tuple(tags) if tags is not None else names_of(network, count)
    return [
        strongest(dict(zip(names, map(float, row), strict=True)), threshold, most)
        for outputs in run_on(network, images, fit, batch=batch)
        for row in outputs[port.name]
    ]


def read_tags(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """A text file in UTF-8, one tag a line in the order of the network's outputs -> the tags.

    Blank lines are skipped, and comments: lines of "#" alone or before a space. "#name" is a tag, as some sites have them.
    Raises InputError, which names the line, for a tag given twice, control characters and other encodings.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path} has more than {MOST_BYTES} bytes: give a text file with one tag a line")
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")  # the mark that some editors put first
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the name") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    first: dict[str, int] = {}
    # Not splitlines, which also splits at some of the characters that are refused here.
    for number, line in enumerate(data.split(b"\n"), 1):
        where = f"line {number} of {path}"
        try:
            name = line.decode().strip(" \t\r")
        except UnicodeDecodeError:
            raise InputError(f"{where} is not UTF-8: save the file as UTF-8 text") from None
        if not name or name == "#" or name.startswith(("# ", "#\t")):
            continue
        unsafe = [character for character in name if unicodedata.category(character) in _UNSAFE]
        if unsafe:
            raise InputError(f"{where} holds the control character {unsafe[0]!a}: remove it")
        if name in first:
            raise InputError(f"{where} repeats the tag {name!r} of line {first[name]}: remove one of them")
        first[name] = number
    if not first:
        raise InputError(f"{path} holds no tag: write one a line")
    return tuple(first)
