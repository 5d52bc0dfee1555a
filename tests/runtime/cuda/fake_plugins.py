"""A TensorRT with IPluginV3 classes and a registry, as its Python bindings of 10.3 to 10.7 have them: they keep no content of a
field, and expressions of sizes have no operators. A test holds the names against the real library's."""

import enum
import inspect
import re
from importlib import util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    BF16 = 7


class TensorFormat(enum.Enum):
    LINEAR = 0
    CHW2 = 1


class PluginCapabilityType(enum.Enum):
    CORE = 0
    BUILD = 1
    RUNTIME = 2


class TensorRTPhase(enum.Enum):
    BUILD = 0
    RUNTIME = 1


class PluginFieldType(enum.Enum):
    INT8 = 3


class DimensionOperation(enum.Enum):
    SUM = "+"
    PROD = "*"
    SUB = "-"


class _Base:
    def __init__(self):
        self.__dict__.setdefault("made", set())
        # As pybind11, which does not know of a base whose constructor was not called.
        self.made.update(kind.__name__ for kind in type(self).__mro__ if kind.__module__ == __name__)


class IPluginV3(_Base):
    pass


class IPluginV3OneCore(_Base):
    pass


class IPluginV3OneBuild(_Base):
    pass


class IPluginV3OneRuntime(_Base):
    pass


class IPluginCreatorV3One(_Base):
    pass


class FallbackString(str):
    pass


class PluginField:
    def __init__(self, name, data, type):
        assert isinstance(name, FallbackString), "the library keeps no copy of a name"
        assert data.dtype == np.int8 and type is PluginFieldType.INT8
        self.name, self.data, self.type, self.size = name, data, type, data.size


class PluginFieldCollection(list):
    pass


class DimsExprs(list):
    def __init__(self, sizes):
        assert all(isinstance(size, Expression) for size in sizes)
        super().__init__(sizes)


class Expression:
    """value: None is the batch."""

    def __init__(self, value):
        self.value = value


class ExprBuilder:
    def constant(self, value):
        return Expression(value)

    def operation(self, kind, first, second):
        if first.value is None or second.value is None:
            return Expression(None)
        found = {"+": first.value + second.value, "-": first.value - second.value, "*": first.value * second.value}
        return Expression(found[kind.value])


def tensor(shape, kind, layout=TensorFormat.LINEAR):
    """A tensor's description at run time."""
    return SimpleNamespace(dims=shape, type=kind, format=layout)


def dynamic(shape, kind, layout=TensorFormat.LINEAR):
    """And while an engine is built."""
    return SimpleNamespace(desc=tensor(shape, kind, layout))


class Registry:
    def __init__(self):
        self.creators = {}

    def register_creator(self, creator, namespace):
        assert creator.plugin_namespace == namespace and isinstance(creator.field_names, PluginFieldCollection)
        key = namespace, creator.name, creator.plugin_version
        return self.creators.setdefault(key, creator) is creator


KINDS = {
    kind.__name__: kind
    for kind in list(globals().values())
    if isinstance(kind, type) and kind.__module__ == __name__ and kind not in (_Base, Expression, ExprBuilder, Registry)
}


class Library(SimpleNamespace):
    """One 'module'."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other

    def __init__(self, version="10.3.0", without=()):
        registry = Registry()
        super().__init__(**{name: kind for name, kind in KINDS.items() if name not in without})
        self.__name__, self.__version__ = "stand_in", version
        self.float32, self.float16, self.bfloat16 = DataType.FLOAT, DataType.HALF, DataType.BF16
        self.registry, self.get_plugin_registry = registry, lambda: registry

    def create(self, name, phase, fields=()):
        """What the library does for a node, or a plugin of a plan."""
        creator = self.registry.creators["anycost", name, "1"]
        found = creator.create_plugin("a layer", PluginFieldCollection(fields), phase)
        wanted = {"IPluginV3", "IPluginV3OneCore", "IPluginV3OneRuntime"}
        assert found.made >= (wanted | {"IPluginV3OneBuild"} if phase is TensorRTPhase.BUILD else wanted)
        assert (found.plugin_name, found.plugin_version, found.plugin_namespace) == (name, "1", "anycost")
        return found


def stored(plugin):
    """The fields as a plan keeps them: copies, which later changes of the plugin do not reach."""
    return [SimpleNamespace(name=f.name, data=f.data.copy(), size=f.size) for f in plugin.get_fields_to_serialize()]


def published():
    """The bodies of the classes in the published types of the library."""
    if util.find_spec("tensorrt_bindings") is None:
        pytest.skip("needs tensorrt-stubs")
    (folder,) = util.find_spec("tensorrt_bindings").submodule_search_locations
    # Not by ast: the file has signatures that Python itself refuses.
    blocks = re.split(r"^class (\w+).*:$", (Path(folder) / "tensorrt.pyi").read_text(), flags=re.MULTILINE)
    return dict(zip(blocks[1::2], blocks[2::2], strict=True))


# Those that have a default.
OPTIONAL = {"destroy", "get_workspace_size"}


def check_methods(body, kind):
    """That a class has every method of a published one, with as many arguments."""
    methods = re.findall(r"^    def ([a-z]\w+)\((.*)\) ->", body.split("\n\n\n")[0], re.MULTILINE)
    assert methods
    for name, given in methods:
        if name not in OPTIONAL:
            count = len(re.sub(r"\[.*?\]", "", given).split(","))
            assert len(inspect.signature(getattr(kind, name)).parameters) == count, name
