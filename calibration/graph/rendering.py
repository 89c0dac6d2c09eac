"""Rendering of a quantization: Q/DQ pairs in a graph, placed so that TensorRT and ONNX Runtime fuse the products.

The input of a linear gets QuantizeLinear and DequantizeLinear; its weight is stored as 8 bit values with a
DequantizeLinear; the bias is added afterwards, in floating point. Attention is unchanged; the cache may be 8 bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle import FP8
from ...errors import CalibrationError
from .cache_scales import fold_cache, quantize_cache
from .linears import find_linears

if TYPE_CHECKING:
    from .graph_file import GraphFile
    from .linears import Linear
    from .quantization import Quantization

__all__ = ["codes_of", "render"]

_STORED = ".weight.quantized"
# First opset in which FP16 may be quantized and E4M3 exists.
_HALF_OPSET = 19


def render(
    graph: GraphFile,
    stage: str,
    quantization: Quantization,
    originals: GraphFile | None = None,
    *,
    narrow_cache: bool = True,
) -> GraphFile:
    """Return the graph with its linears quantized.

    A float32 graph keeps its opset; a graph with FP16 linears, and every FP8 graph, is raised to opset 19, in which
    the operators in use are unchanged.

    Args:
        graph: Graph in float32 or with FP16 linears.
        stage: "fill" or "denoise", the stage of the activation scales.
        quantization: The quantization.
        originals: The same graph in float32; its weights are folded and its biases corrected in place of FP16 ones.
            None for ``graph``.
        narrow_cache: Whether the cache is stored in 8 bits, or only folded for it.

    Raises:
        CalibrationError: The graph lacks a linear that the stage's quantization names.
    """
    rendered = graph.copy()
    exact = (originals or graph).copy()
    if quantization.cache:
        fold_cache(exact, quantization.cache)
        fold_cache(rendered, quantization.cache, originals)
        if narrow_cache:
            quantize_cache(rendered, quantization.cache)
    linears = {linear.node: linear for linear in find_linears(rendered) if linear.name in quantization.linears}
    if quantization.linears and not linears:
        raise CalibrationError(f"the {stage} graph contains none of the quantized linears; it is of another model")
    writer = _Writer(rendered, stage, quantization, exact.weights)
    nodes = []
    for node in rendered.nodes:
        nodes += writer.linear(node, linears[node.name]) if node.name in linears else [node]
    rendered.replace_nodes(nodes)
    if writer.half or quantization.format == FP8:
        rendered.raise_opset(_HALF_OPSET)
    return rendered


def codes_of(graph: GraphFile) -> dict[str, npt.NDArray[Any]]:
    """Return the stored bytes of a rendered graph's weights, [outputs, inputs], by linear."""
    return {name.removesuffix(_STORED): data for name, data in graph.weights.items() if name.endswith(_STORED)}


class _Writer:
    """Writer of the nodes of quantized linears; a tensor that several linears read is quantized once."""

    def __init__(
        self, graph: GraphFile, stage: str, quantization: Quantization, originals: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        self.graph, self.stage, self.quantization, self.originals = graph, stage, quantization, originals
        self.half = False
        self._quantized: dict[str, str] = {}

    def linear(self, node: Any, linear: Linear) -> list[Any]:
        """Return the nodes that replace a Gemm."""
        from onnx.helper import make_node

        dtype = self.graph.weights[linear.weight].dtype
        self.half |= dtype == np.float16
        before, source = self._input(linear, dtype)
        weight = self.graph.fresh_name(f"{linear.weight}.dequantized")
        scales = self.quantization.linears[linear.name]
        stored = self.quantization.codes[linear.name]
        operands = self._operands(f"{linear.name}{_STORED}", np.array(scales.weight), dtype)
        self._constant(f"{linear.name}{_STORED}", stored, float8=self.quantization.format == FP8)
        before.append(
            make_node("DequantizeLinear", [f"{linear.name}{_STORED}", *operands], [weight], axis=0,
                      name=f"{linear.name}.weight.dq")
        )  # fmt: skip
        output = node.output[0]
        product = f"{linear.name}.product" if linear.bias else output
        before.append(make_node("Gemm", [source, weight], [product], name=node.name, transB=1))
        if linear.bias:
            bias = self._corrected(linear, scales.correction.get(self.stage))
            before.append(make_node("Add", [product, bias], [output], name=f"{linear.name}.bias.add"))
        return before

    def _input(self, linear: Linear, dtype: Any) -> tuple[list[Any], str]:
        """Return the nodes that quantize a linear's input, and the tensor that it reads then."""
        from onnx.helper import make_node

        if linear.source in self._quantized:
            return [], self._quantized[linear.source]
        name = self.quantization.linears[linear.name].site
        site = self.quantization.sites[name]
        if self.stage not in site.scales:
            raise CalibrationError(f"'{name}' was not observed in the {self.stage} graph; calibrate again")
        nodes, source = [], linear.source
        if site.migration is not None:
            factors = self._constant(f"{name}.migration", np.array(site.migration, dtype))
            nodes.append(make_node("Mul", [source, factors], [f"{name}.migrated"], name=f"{name}.migrate"))
            source = f"{name}.migrated"
        operands = self._operands(f"{name}.input", np.array(site.scales[self.stage]), dtype)
        stored = self.graph.fresh_name(f"{name}.input.quantized")
        nodes += [
            make_node("QuantizeLinear", [source, *operands], [stored], name=f"{name}.input.q"),
            make_node("DequantizeLinear", [stored, *operands], [f"{name}.input.dequantized"], name=f"{name}.input.dq"),
        ]
        self._quantized[linear.source] = f"{name}.input.dequantized"
        return nodes, self._quantized[linear.source]

    def _corrected(self, linear: Linear, correction: tuple[float, ...] | None) -> str:
        assert linear.bias is not None
        if correction is None:
            return linear.bias
        bias = self.graph.weights[linear.bias]
        exact = np.asarray(self.originals[linear.bias], np.float32)
        return self._constant(
            f"{linear.bias}.{self.stage}", (exact + np.array(correction, np.float32)).astype(bias.dtype)
        )

    def _operands(self, stem: str, scales: npt.NDArray[Any], dtype: Any) -> list[str]:
        """Return the names of a scale and of its zero point, which is 0 and gives the type."""
        fp8 = self.quantization.format == FP8
        zero = np.zeros(scales.shape, np.uint8 if fp8 else np.int8)
        return [
            self._constant(f"{stem}.scale", scales.astype(dtype)),
            self._constant(f"{stem}.zero", zero, float8=fp8),
        ]

    def _constant(self, name: str, data: npt.NDArray[Any], *, float8: bool = False) -> str:
        self.graph.weights[self.graph.fresh_name(name)] = data
        if float8:
            self.graph.float8.add(name)
        return name
