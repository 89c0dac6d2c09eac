"""Reads safetensors files with numpy alone (https://huggingface.co/docs/safetensors: length, JSON header, bytes)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["load_tensors"]

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BOOL": "?"}
_LENGTH_NBYTES = 8


def load_tensors(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return every tensor by name; views of the file's bytes, read-only.

    Raises:
        ValueError: The file is no safetensors file, or holds a type that numpy lacks.
    """
    data = path.read_bytes()
    header_nbytes = int.from_bytes(data[:_LENGTH_NBYTES], "little")
    start = _LENGTH_NBYTES + header_nbytes
    if not 0 < header_nbytes <= len(data) - _LENGTH_NBYTES:
        raise ValueError(f"{path}: no safetensors file: a header of {header_nbytes} bytes in {len(data)} bytes")
    header = json.loads(data[_LENGTH_NBYTES:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"{path}: {name} is {entry['dtype']}; known are {', '.join(_TYPES)}")
        first, end = entry["data_offsets"]
        flat = np.frombuffer(data[start + first : start + end], _TYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors
