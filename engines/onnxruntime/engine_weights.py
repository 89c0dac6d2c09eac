"""Weights of optimized graphs: unchanged ones stay in the bundle, changed ones are stored once in the engine's file.

Weights are identified by content, not by name: an optimizer renames them, and two stages share most changed ones.
Locations are relative to the bundle, the folder in which ONNX Runtime resolves them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ...bundle import Artifact, sha256_of

if TYPE_CHECKING:
    import onnx

__all__ = ["EngineWeights", "point_at"]

_FILE = "weights.bin"
# Alignment in bytes: a cache line.
_ALIGNMENT = 64


class EngineWeights:
    """Writer of an engine's weights file."""

    def __init__(self, folder: Path, place: str) -> None:
        """Create a writer.

        Args:
            folder: Folder for the file; it contains the graphs that share weights.
            place: Final folder of the file, relative to the bundle.
        """
        self._folder = folder
        self._path = folder / _FILE
        self._location = f"{place}/{_FILE}"
        # Length and SHA-256 → location and offset in bytes.
        self._known: dict[tuple[int, bytes], tuple[str, int]] = {}

    def know(self, model: onnx.ModelProto, location: str, path: Path) -> None:
        """Register the weights of a graph of the bundle, so that they are found in the optimized graph.

        Args:
            model: The graph.
            location: File of its weights, relative to the bundle.
            path: Path of that file.
        """
        content = np.memmap(path, np.uint8, "r")
        for tensor in _external(model):
            offset, data = _slice(tensor, content)
            self._known.setdefault(_digest(data), (location, offset))

    def share(self, model: onnx.ModelProto) -> None:
        """Point a graph with a weights file beside it at the weights of the bundle and of the engine."""
        tensors = _external(model)
        if not tensors:
            return
        (name,) = {_entry(tensor, "location") for tensor in tensors}
        content = np.memmap(self._folder / name, np.uint8, "r")
        with self._path.open("ab") as own:
            for tensor in tensors:
                _, data = _slice(tensor, content)
                digest = _digest(data)
                if digest not in self._known:
                    own.write(bytes(-own.tell() % _ALIGNMENT))
                    self._known[digest] = (self._location, own.tell())
                    own.write(data)
                _point(tensor, *self._known[digest], len(data))

    def finish(self) -> Artifact | None:
        """Return the file, or None if no weight was changed."""
        if not self._path.is_file() or not self._path.stat().st_size:
            self._path.unlink(missing_ok=True)
            return None
        return Artifact(_FILE, sha256_of(self._path), self._path.stat().st_size)


def point_at(model: onnx.ModelProto, location: str) -> None:
    """Point the weights of a graph at their file, which is in the bundle.

    Args:
        model: The graph; it keeps each weight's offset and length.
        location: File of the weights, relative to the bundle.
    """
    for tensor in _external(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location


def _external(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.external_data]


def _entry(tensor: onnx.TensorProto, key: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")


def _slice(tensor: onnx.TensorProto, content: npt.NDArray[np.uint8]) -> tuple[int, bytes]:
    """Return a tensor's offset and bytes in the file of its weights."""
    offset = int(_entry(tensor, "offset") or 0)
    length = int(_entry(tensor, "length") or len(content) - offset)
    return offset, content[offset : offset + length].tobytes()


def _digest(data: bytes) -> tuple[int, bytes]:
    return len(data), hashlib.sha256(data).digest()


def _point(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
