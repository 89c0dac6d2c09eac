"""The layers that TensorRT for RTX's builder logs, in the form of the engine inspector."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ....errors import EngineError

__all__ = ["inspection_of", "scratch_of"]

_SCRATCH = re.compile(r"Total Activation Memory: (\d+) bytes")

# A line of the log is "Name: …, LayerType: …, Inputs: […], Constants: […], Outputs: […], TacticName: …, StreamId: …,
# Metadata: …"; a plan's inputs and outputs are listed with a space before "Name".
_LAYER = re.compile(r"Name: (.*?), LayerType: (\w+)(.*)")
_FIELD = re.compile(r", (Inputs|Constants|Outputs|TacticName|StreamId|Metadata): ")
_TENSOR = re.compile(r"Name: (.*?), Dimensions: (\[[^\]]*\]),.*?Datatype: (\w+)")
_SIDES = ("Inputs", "Constants", "Outputs")


def inspection_of(lines: Iterable[str]) -> str:
    """Return the layers of a build as the JSON that an engine's inspector returns.

    Args:
        lines: Messages that the builder logged at VERBOSE, with detailed profiling.

    Raises:
        EngineError: They list no layer.
    """
    layers = [layer for message in lines for layer in _layers(message)]
    if not layers:
        raise EngineError("TensorRT's builder logged no layers; they need a VERBOSE log and DETAILED profiling")
    return json.dumps({"Layers": layers})


def scratch_of(lines: Iterable[str]) -> int:
    """Return the bytes of scratch memory that a context needs, the most of all targets.

    Raises:
        EngineError: No line has them.
    """
    found = [int(number) for message in lines for number in _SCRATCH.findall(message)]
    if not found:
        raise EngineError("TensorRT's builder logged no memory; that needs a VERBOSE log and DETAILED profiling")
    return max(found)


def _layers(message: str) -> Iterator[dict[str, Any]]:
    for line in message.splitlines():
        found = _LAYER.fullmatch(line)
        if found is not None:
            name, kind, rest = found.groups()
            names, values = _FIELD.split(rest)[1::2], _FIELD.split(rest)[2::2]
            fields = dict(zip(names, values, strict=True))
            sides = {side: _tensors(fields.get(side, "")) for side in _SIDES}
            texts = {key: fields.get(key, "") for key in ("TacticName", "Metadata")}
            yield {"Name": name, "LayerType": kind, **sides, **texts}


def _tensors(text: str) -> list[dict[str, Any]]:
    return [
        {"Name": name, "Dimensions": json.loads(dims), "Format/Datatype": kind}
        for name, dims, kind in _TENSOR.findall(text)
    ]
