"""The fused kernels in plans of a TensorRT that cannot keep kernels of plugins itself (before 10.8): each plugin is a Python
object that launches machine code on the library's stream.

A plan carries of each plugin what a run needs (``PluginKernels``), so nothing is compiled here. ``register`` tells the library of
the plugins, before the first such plan is read.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from anycost.errors import BackendError
from anycost.runtime.cuda.devices import CudaDevice
from anycost.runtime.cuda.driver import Cuda
from anycost.runtime.cuda.plugin_kernels import PluginKernels, PluginLauncher

# What the ONNX graph calls them, and the plan.
NAMESPACE, VERSION = "anycost", "1"
NAMES = ("ModulatedConv", "ModulatedConvTranspose", "Finish", "FirstToRGB", "ToRGB")
# Those that a library must have.
CLASSES = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime", "IPluginCreatorV3One")

_FIELD = "kernels"


class Plugins:
    """The plugins of one library on one device. build: makes a plugin by its name, for a network that is being built; None where
    plans are only run. failure: why a plugin of a plan could not be made, the last time; the library prints it and goes on."""

    def __init__(self, trt: Any, device: CudaDevice, cuda: Cuda):
        self.trt, self.device, self.cuda = trt, device, cuda
        self.build: Callable[[str], Any] | None = None
        self.failure = ""

    def make(self, name: str, fields: Any, phase: Any) -> Any:
        """What TensorRT asks a creator for. Raises BackendError."""
        try:
            if phase == self.trt.TensorRTPhase.BUILD:
                if self.build is None:
                    raise BackendError(
                        f"plugin {NAMESPACE}::{name} was not made ready for building: a plan has kernels"
                    )
                return self.build(name)
            # What can fail comes first: with 10.3 a plugin that nobody takes over ends the process when it is dropped.
            launcher = PluginLauncher(_kernels(fields), self.device, self.cuda)
            found = plugin_class(self.trt)(name)
            found.launcher = launcher
            return found
        except BackendError as error:
            self.failure = str(error)
            raise


def _kernels(fields: Any) -> PluginKernels:
    # The only field there is: by its place, since the library keeps no copy of names.
    if len(fields) != 1:
        raise BackendError(f"a plan's plugin has {len(fields)} fields where one was expected: rebuild the bundle")
    return PluginKernels.from_bytes(_content(fields[0]))


class FieldStruct(ctypes.Structure):
    """nvinfer1::PluginField, as the C++ headers declare it."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    )


def _content(field: Any) -> bytes:
    """The bytes of a field of type INT8."""
    if type(type(field)).__name__ != "pybind11_type" or int(np.__version__.split(".")[0]) < 2:
        return np.asarray(field.data).tobytes()
    # The library's bindings are compiled for NumPy 1: with a later one the array that they make holds anything, or making it ends
    # the process. An object of pybind11 has the address of the C++ one after what every Python object begins with.
    address = ctypes.c_void_p.from_address(id(field) + object.__basicsize__).value
    return read_field(FieldStruct.from_address(address or 0), field.name, field.size)


def read_field(struct: FieldStruct, name: str, size: int) -> bytes:
    """The bytes of a field, read where they lie. name, size: what the library says of it.

    Raises BackendError where the struct says something else: then it is none.
    """
    if struct.length != size or struct.name != name.encode() or not struct.data:
        raise BackendError("tensorrt: the installed NumPy and TensorRT do not fit each other: pip install 'numpy<2'")
    return ctypes.string_at(struct.data, size)


_registered: dict[int, tuple[Plugins, list[Any]]] = {}


def register(trt: Any, device: CudaDevice, cuda: Cuda) -> Plugins:
    """Tell a library of the plugins, once; further calls give what the first gave. trt: its module.

    Raises BackendError for one without IPluginV3, or where others have taken the names.
    """
    if id(trt) in _registered:
        return _registered[id(trt)][0]
    missing = [name for name in CLASSES if not hasattr(trt, name)]
    if missing:
        raise BackendError(
            f"TensorRT {trt.__version__} has no {missing[0]}, which this plan's plugins need: install 10.3 or later"
        )
    plugins = Plugins(trt, device, cuda)
    registry = trt.get_plugin_registry()
    creators = [creator_class(trt)(name, plugins) for name in NAMES]
    for creator in creators:
        if not registry.register_creator(creator, NAMESPACE):
            raise BackendError(
                f"another plugin {NAMESPACE}::{creator.name} is registered in this process: start a new one"
            )
    # The library refers to the creators until the process ends.
    _registered[id(trt)] = plugins, creators
    return plugins


@cache
def plugin_class(trt: Any) -> Any:
    """A plugin of a plan: core and runtime. Methods have the names and arguments that TensorRT calls them with."""
    bases = (trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneRuntime)

    class LaunchedPlugin(*bases):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            for base in bases:
                base.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = name, VERSION, NAMESPACE
            self.launcher: PluginLauncher | None = None
            self.tactic = 0
            self.kept: Any = None

        def get_capability_interface(self, type: Any) -> Any:
            return None if type == trt.PluginCapabilityType.BUILD else self

        def clone(self) -> Any:
            found = self._new()
            # What the library keeps itself is set by the constructor.
            found.__dict__.update(self.__dict__)
            return found

        def _new(self) -> Any:
            return LaunchedPlugin(self.plugin_name)

        def attach_to_context(self, context: Any) -> Any:
            launcher = None if self.launcher is None else self.launcher.again()
            if launcher is not None:
                launcher.load(self.tactic)
            found = self.clone()
            found.launcher = launcher
            return found

        def on_shape_change(self, inputs: Any, outputs: Any) -> None:
            """Only the batch changes, and every run brings its own."""

        def set_tactic(self, tactic: int) -> None:
            self.tactic = tactic
            if self.launcher is not None:
                self.launcher.load(tactic)

        def get_fields_to_serialize(self) -> Any:
            if self.launcher is not None:
                self.kept = _fields(trt, self.launcher.kernels.to_bytes())
            return trt.PluginFieldCollection([]) if self.kept is None else self.kept[0]

        def enqueue(
            self, input_desc: Any, output_desc: Any, inputs: Any, outputs: Any, workspace: int, stream: int
        ) -> None:
            if self.launcher is None:
                raise BackendError(f"plugin {NAMESPACE}::{self.plugin_name} is run before it has its kernels")
            batch = int(output_desc[0].dims[0])
            self.launcher.launch(self.tactic, batch, (*inputs, *outputs), stream)

    return LaunchedPlugin


def _fields(trt: Any, data: bytes) -> tuple[Any, ...]:
    """The collection of the one field, first, and after it what it points into, which the library does not keep."""
    name, array = trt.FallbackString(_FIELD), np.frombuffer(data, np.int8)
    field = trt.PluginField(name, array, trt.PluginFieldType.INT8)
    return trt.PluginFieldCollection([field]), field, name, array


@cache
def creator_class(trt: Any) -> Any:
    """What the library makes plugins by, one for each name."""

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[misc]
        def __init__(self, name: str, plugins: Plugins) -> None:
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_version, self.plugin_namespace = name, VERSION, NAMESPACE
            # A node of the graph has no attributes of its own.
            self.field_names = trt.PluginFieldCollection([])
            self._plugins = plugins

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            return self._plugins.make(self.name, fields, phase)

    return Creator
