"""TensorRT's host memory: a buffer without the methods of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["host_memory", "host_memory_class"]


def host_memory_class(recorder: Recorder) -> type:
    """Create IHostMemory: a buffer without a length and without the methods of bytes."""
    names = recorder.names.classes["IHostMemory"]
    path = f"{recorder.names.bindings}.IHostMemory"

    class IHostMemory(bytes):
        _made = True

        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_") and name not in names.properties:
                raise AttributeError(f"'{path}' object has no attribute '{name}'")
            return super().__getattribute__(name)

        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(f"'{path}' object has no attribute '{name}'")

        def __len__(self) -> int:
            raise TypeError(f"object of type '{path}' has no len()")

        def __getitem__(self, index: Any) -> Any:
            raise TypeError(f"'{path}' object is not subscriptable")

        @property
        def nbytes(self) -> int:
            return bytes.__len__(self)

        @property
        def dtype(self) -> Any:
            return recorder.enum("DataType", "INT8")

    return IHostMemory


def host_memory(recorder: Recorder, data: bytes) -> Any:
    """Return bytes as IHostMemory."""
    return recorder.module.IHostMemory(data)
