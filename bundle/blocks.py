"""Transformer blocks of a graph's nodes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .storage.external_data import read_fields

if TYPE_CHECKING:
    from .folder import Bundle
    from .graph import Graph

__all__ = ["find_blocks"]

# Fields of onnx.proto: ModelProto.graph, GraphProto.node and .initializer, NodeProto, TensorProto.name.
_GRAPH, _NODE, _INITIALIZER, _INPUT, _OUTPUT, _NAME, _TENSOR_NAME = 7, 1, 5, 1, 2, 3, 8


def find_blocks(bundle: Bundle, graph: Graph) -> dict[str, int]:
    """Return the transformer block of every node and of every node's outputs, by name; -1 outside the blocks.

    A node that reads a weight, or the cache, of a block belongs to that block; nodes between two such nodes belong to
    the later one, because norms and modulations precede the products they serve.

    Raises:
        BundleError: The graph's file is missing.
    """
    anchors = _Anchors(bundle, graph)
    content = memoryview(bundle.locate(graph.file).read_bytes())
    (body,) = (content for field, content in read_fields(content) if field == _GRAPH)
    fields = list(read_fields(body))
    weights = {_text(content, _TENSOR_NAME) for field, content in fields if field == _INITIALIZER}
    blocks: dict[str, int] = {}
    waiting: list[str] = []
    for field, content in fields:
        if field != _NODE:
            continue
        parts = [(part, bytes(value).decode()) for part, value in read_fields(content) if part in (1, 2, 3)]
        waiting += [name for part, name in parts if part in (_NAME, _OUTPUT)]
        anchor = anchors.find([name for part, name in parts if part in (_INPUT, _OUTPUT)], weights)
        if anchor is not None:
            blocks |= dict.fromkeys(waiting, anchor)
            waiting.clear()
    return blocks | dict.fromkeys(waiting, -1)


class _Anchors:
    """Tensors that belong to a block: its parameters, and its keys and values among the graph's inputs and outputs."""

    def __init__(self, bundle: Bundle, graph: Graph) -> None:
        before, after = bundle.manifest.parameters.block.split("{layer}")
        self._block = re.compile(rf"(?:^|\.){re.escape(before)}(\d+){re.escape(after)}")
        self._layers = {spec.name: spec.layer for spec in (*graph.inputs, *graph.outputs) if spec.layer is not None}

    def find(self, names: Sequence[str], weights: set[str]) -> int | None:
        """Return the block of the names, -1 for a weight outside the blocks, None if no name belongs to a block."""
        for name in names:
            found = self._block.search(name)
            if name in self._layers or found:
                return int(found[1]) if found else self._layers[name]
        return -1 if any(name in weights and name.endswith((".weight", ".bias")) for name in names) else None


def _text(message: memoryview, wanted: int) -> str:
    return next((bytes(content).decode() for field, content in read_fields(message) if field == wanted), "")
