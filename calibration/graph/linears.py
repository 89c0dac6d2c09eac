"""Linears of a graph's blocks, named after their modules in training, and the choice of those to quantize."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import CalibrationError

if TYPE_CHECKING:
    from .graph_file import GraphFile

__all__ = ["Linear", "choose_linears", "find_linears", "group_of", "sites_of"]


@dataclass(frozen=True)
class Linear:
    """A Gemm whose weight is a parameter of the model.

    Attributes:
        name: The module's name, such as ``blocks.3.mlp.fc1``.
        node: The Gemm's name in this graph.
        source: The tensor that it reads.
        weight: Initializer, [outputs, inputs].
        bias: Initializer, [outputs], or None.
        outputs: Output channels.
        inputs: Input channels.
        is_floating: Whether it stays in floating point by default.
    """

    name: str
    node: str
    source: str
    weight: str
    bias: str | None
    outputs: int
    inputs: int
    is_floating: bool = False

    @property
    def group(self) -> str:
        """Group of layers for which sensitivity is measured: ``blocks.3.mlp``."""
        return group_of(self.name)


def group_of(layer: str) -> str:
    """Return the group that a layer belongs to: ``blocks.3.mlp`` for ``blocks.3.mlp.fc1``."""
    return layer.rpartition(".")[0] or layer


def find_linears(graph: GraphFile) -> list[Linear]:
    """Return every Gemm that multiplies by ``<module>.weight`` [outputs, inputs], in the graph's order."""
    found = []
    for node in graph.nodes:
        if node.op_type != "Gemm" or node.input[1] not in graph.weights or not node.input[1].endswith(".weight"):
            continue
        attributes = {attribute.name: attribute for attribute in node.attribute}
        plain = all(attributes[name].f == 1.0 for name in ("alpha", "beta") if name in attributes)
        if not plain or "transB" not in attributes or attributes["transB"].i != 1:
            continue
        outputs, inputs = graph.weights[node.input[1]].shape
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        name = node.input[1].removesuffix(".weight")
        kept = any(fnmatch.fnmatchcase(name, pattern) for pattern in graph.parameters.floating)
        found.append(Linear(name, node.name, node.input[0], node.input[1], bias, outputs, inputs, kept))
    return found


def choose_linears(linears: Iterable[Linear], keep: Sequence[str] = ()) -> list[Linear]:
    """Return the linears to quantize, without those that stay in floating point.

    Args:
        linears: Linears of all graphs.
        keep: Shell patterns of further linears to keep: ``blocks.0.*``, ``*.mlp.fc2``.

    Raises:
        CalibrationError: A pattern matches no linear, or nothing is left.
    """
    linears = list(linears)
    names = {linear.name for linear in linears}
    for pattern in keep:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise CalibrationError(
                f"--keep {pattern!r} matches no linear; the names are {', '.join(sorted(names)[:6])} and so on"
            )
    kept = {one.name for one in linears if any(fnmatch.fnmatchcase(one.name, pattern) for pattern in keep)}
    chosen = [one for one in linears if not one.is_floating and one.name not in kept]
    if not chosen:
        raise CalibrationError("every linear is kept in floating point, so there is nothing to quantize")
    return chosen


def sites_of(graphs: Iterable[Iterable[Linear]]) -> dict[str, str]:
    """Return the site of each linear: linears that read the same tensor in any graph share one.

    The tensor is quantized once, so they share its scale and its smoothing. A site is named after its first linear.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for linears in graphs:
        first: dict[str, str] = {}
        for linear in linears:
            here, there = root(linear.name), root(first.setdefault(linear.source, linear.name))
            if here != there:
                parent[max(here, there)] = min(here, there)
    return {name: root(name) for name in parent}
