"""OpenVINO: its intermediate representation, with the weights blob described instead of stored.

A constant of the IR is traced back to the weights file by its bytes: OpenVINO keeps values as they are in the ONNX graph, so
a constant that equals a bound initializer is that initializer. What matches none (FIR kernels, shapes, scalars) is stored.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import openvino as ov
from openvino import opset13 as op

from anycost.errors import BuildError
from anycost.export.compilers.even_rows import even_rows
from anycost.export.trace import Traced
from anycost.export.variants import Variant
from anycost.export.winograd import winograd
from anycost.runtime.backends import BINDINGS_NAME, BlobBinding, BlobBindings, BlobConstant
from anycost.runtime.backends.openvino import CONSTANTS_NAME, MODEL_NAME

# A weight that is stored as a constant would be a second copy: more than this means that the match has broken.
_MOST_CONSTANTS = 1 << 20


def write(traced: Traced, variant: Variant, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source, graph, blob_path = (Path(scratch) / name for name in ("model.onnx", "model.xml", "model.bin"))
        onnx_model = even_rows(traced.model)
        # What bf16 leaves in float32 is computed in bfloat16 too, which is too coarse for the sums.
        if variant.precision != "bf16":
            onnx_model = winograd(onnx_model)
        source.write_bytes(onnx_model.SerializeToString())
        model = ov.Core().read_model(source)
        _deal_rows(model)
        ov.serialize(model, graph, blob_path)
        blob = blob_path.read_bytes()
        text = _plain_names(graph.read_text())
    bindings, stored = _describe(text, blob, traced)
    (folder / MODEL_NAME).write_text(text)
    (folder / CONSTANTS_NAME).write_bytes(stored)
    (folder / BINDINGS_NAME).write_text(bindings.model_dump_json(indent=1))


def _describe(text: str, blob: bytes, traced: Traced) -> tuple[BlobBindings, bytes]:
    known = {value.tobytes(): traced.bindings[name] for name, value in traced.values().items()}
    weights: dict[int, BlobBinding] = {}
    others: dict[int, BlobConstant] = {}
    stored = bytearray()
    starts: dict[bytes, int] = {}
    for data in ElementTree.fromstring(text).iterfind(".//layer[@type='Const']/data"):
        offset, size = int(data.attrib["offset"]), int(data.attrib["size"])
        value = blob[offset : offset + size]
        if value in known:
            weights[offset] = BlobBinding(offset=offset, binding=known[value])
            continue
        if value not in starts:
            starts[value] = len(stored)
            stored += value
        others[offset] = BlobConstant(offset=offset, start=starts[value], size=size)
    if len(stored) > _MOST_CONSTANTS:
        raise BuildError(
            f"OpenVINO {ov.__version__} changed the weights on reading: {len(stored)} bytes match no weight"
        )
    bindings = BlobBindings(
        size=len(blob),
        weights=tuple(weights[offset] for offset in sorted(weights)),
        constants=tuple(others[offset] for offset in sorted(others)),
    )
    return bindings, bytes(stored)


def _deal_rows(model: ov.Model) -> None:
    """Write the rows that ``winograd`` puts side by side and reshapes as rows that are dealt out like cards: the plugin keeps
    channels innermost, where that is a copy and a reshaping is three."""
    for node in model.get_ordered_ops():
        beside = node.input_value(0).get_node() if node.get_type_name() == "Reshape" else node
        if beside.get_type_name() != "Concat" or beside.get_attributes()["axis"] != 3:
            continue
        rows = beside.input_values()
        one = _sizes(rows[0])
        if len(one) == 3 and _sizes(node.output(0)) == [one[0], len(rows) * one[1], one[2]]:
            dealt = op.shuffle_channels(op.concat(rows, 2), 2, len(rows))
            dealt.set_friendly_name(node.get_friendly_name())
            dealt.output(0).set_names(node.output(0).get_names())
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(dealt.output(0))
    model.validate_nodes_and_infer_types()


def _sizes(value: ov.Output) -> list[int]:
    """All but the batch; -1 for what is not fixed, none where not even their number is."""
    shape = value.get_partial_shape()
    sizes = [] if shape.rank.is_dynamic else list(shape)[1:]
    return [size.get_length() if size.is_static else -1 for size in sizes]


def _plain_names(text: str) -> str:
    """Number the names that OpenVINO makes up: they hold a counter of the process, and a build must give the same bytes."""
    made_up: dict[str, str] = {}

    def renamed(match: re.Match[str]) -> str:
        return made_up.setdefault(match[0], f'name="{match[1]}_{len(made_up)}"')

    return re.sub(r'name="([A-Z][A-Za-z]*)_\d+"', renamed, text)
