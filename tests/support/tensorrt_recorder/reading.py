"""Reads the names of installed Python bindings of TensorRT for RTX, in the format of tests/data/tensorrt_api.

``python reading.py > ../../data/tensorrt_api/rtx-1.7.txt`` writes the file again, of the installed release.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["read_bindings"]

# What deserializes and runs a plan, and nothing that builds one.
CLASSES = (
    "Dims", "EngineInspector", "ICudaEngine", "IExecutionContext", "IHostMemory", "ILogger", "IProfiler",
    "IRuntimeCache", "IRuntimeConfig", "Logger", "Profiler", "Runtime",
)  # fmt: skip
ENUMS = (
    "ComputeCapability", "CudaGraphStrategy", "DataType", "DynamicShapesKernelSpecializationStrategy",
    "EngineCapability", "EngineInvalidityDiagnostics", "EngineStat", "EngineValidity",
    "ExecutionContextAllocationStrategy", "HardwareCompatibilityLevel", "LayerInformationFormat",
    "ProfilingVerbosity", "TempfileControlFlag", "TensorFormat", "TensorIOMode", "TensorLocation",
)  # fmt: skip
_HEAD = """\
# Names of the Python bindings of TensorRT for RTX {0} that deserialize and run plans: enums with values,
# classes with constructor, properties (r: to be read, rw: to be set as well, with the type) and methods with the names
# and types of their arguments (=: may be left out). Read by tests/support/tensorrt_recorder/reading.py.
version {0}
"""
_TYPES = {"SupportsInt": "int", "SupportsFloat": "float", "Buffer": "buffer"}


def read_bindings(module: Any) -> str:
    """Return the names of the module ``tensorrt_rtx``, as the text of a file of tests/data/tensorrt_api."""
    lines = [_enum_line(name, getattr(module, name)) for name in ENUMS]
    lines += [f"value {name} {member}" for name, member in sorted(vars(module).items()) if _is_dtype(module, member)]
    for name in sorted(CLASSES, key=lambda name: (len(getattr(module, name).__mro__), name)):
        lines += _class_lines(name, getattr(module, name))
    return _HEAD.format(module.__version__) + "\n".join(lines) + "\n"


def _is_dtype(module: Any, value: Any) -> bool:
    return isinstance(value, module.DataType)


def _enum_line(name: str, enum: Any) -> str:
    members = sorted(enum.__members__.items(), key=lambda item: int(item[1]))
    return f"enum {name}{'*' * _ordered(members[0][1])} " + " ".join(f"{key}={int(value)}" for key, value in members)


def _ordered(member: Any) -> bool:
    try:
        return member < member or True
    except TypeError:
        return False


def _class_lines(name: str, cls: Any) -> Iterator[str]:
    base = cls.__mro__[1].__name__
    constructors = "" if cls.__init__ is object.__init__ else " " + _signatures(cls.__init__.__doc__ or "")
    yield f"class {name}{'' if base == 'pybind11_object' else f' : {base}'}{constructors.rstrip()}"
    for key, value in sorted(vars(cls).items()):
        line = None if key.startswith("_") else _member(key, value)
        if line:
            yield "  " + line


def _member(name: str, value: Any) -> str:
    if isinstance(value, type):
        return _enum_line(name, value)
    if hasattr(type(value), "__members__"):
        return f"value {name} {type(value).__name__}.{name}"
    if isinstance(value, property):
        return f"{name} {_access(value)}"
    return f"{name} {_signatures(value.__doc__)}"


def _access(value: property) -> str:
    access = ("r" if value.fget else "") + ("w" if value.fset else "")
    if value.fset is None:
        return access
    _, set_to = _arguments((value.fset.__doc__ or "").splitlines()[0])
    return f"{access}:{set_to.partition(':')[2]}"


def _signatures(text: str) -> str:
    """Return "(name:type, other:type=) (name:type)" of the docstring that pybind11 writes."""
    found = re.findall(r"^(?:\d+\. )?\w+\((self: .*)\) -> ", text, re.MULTILINE)
    return " ".join(f"({', '.join(_arguments(inside)[1:])})" for inside in found)


def _arguments(inside: str) -> list[str]:
    inside = re.sub(r"<[^>]*>", "default", inside.strip().removeprefix("(").partition(") -> ")[0])
    return [_argument(text) for text in re.split(r", (?=\w+: )", inside)]


def _argument(text: str) -> str:
    name, _, rest = text.partition(": ")
    declared, equals, _ = rest.partition(" = ")
    return f"{name}:{_type(declared)}{equals.strip()}"


def _type(declared: str) -> str:
    """Return the last part of a type's name, without the types of its elements."""
    parts = re.split(r"\.|::", declared.partition("[")[0])
    last = f"{parts[-2]}.Severity" if parts[-1] == "Severity" else parts[-1]
    return _TYPES.get(last, last)


if __name__ == "__main__":
    print(read_bindings(importlib.import_module("tensorrt_rtx")), end="")
