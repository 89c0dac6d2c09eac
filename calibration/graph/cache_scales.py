"""Scales of an 8 bit cache: one for K and one for V of each layer, with channel factors folded into the projections.

Each channel of K is multiplied by a factor and its query divided by the same, each channel of V multiplied and the
output projection's column divided: the same model, except for the last bit of these weights. One scale then fits
channels of different range. RoPE mixes the two channels of a pair, which therefore share their factor. FP8's steps grow
with the values, so its factors are 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle import FP8, INT8, Role
from ...errors import CalibrationError
from ..observe.statistics import PER_OCTAVE
from .formats import FORMATS, fp16_scale

if TYPE_CHECKING:
    from ...bundle import CacheProjections, EightBits, TensorSpec
    from ..observe.statistics import ChannelStatistics
    from .formats import Format
    from .graph_file import GraphFile

__all__ = ["CacheScales", "cache_name", "choose_cache_scales", "fold_cache", "fold_statistics", "quantize_cache"]

_PART = {Role.PAST_KEY: "k", Role.PRESENT_KEY: "k", Role.PAST_VALUE: "v", Role.PRESENT_VALUE: "v"}
# FP16 weights keep all their bits under such small factors.
_MOST_EXPONENT = 4
# Other clips have larger values than the observed ones. A quarter of an octave of headroom costs INT8 a quarter of a
# bit; FP8 has fifteen octaves of even precision, so that two of them cost it nothing.
_HEADROOM = {INT8: 2**0.25, FP8: 4.0}


@dataclass(frozen=True)
class CacheScales:
    """Scale and channel factors of the K or the V of a layer.

    Attributes:
        scale: Quantization step, FP16-representable.
        exponents: Base-2 logarithm of each channel's factor, in eighths, so that the histograms of the tensors that
            read the channels move by whole bins, [heads * head size].
        format: The 8 bit type.
    """

    scale: float
    exponents: tuple[float, ...]
    format: EightBits = INT8

    @property
    def kind(self) -> Format:
        """The 8 bit type."""
        return FORMATS[self.format]

    @property
    def factors(self) -> npt.NDArray[np.float32]:
        """The factor of each channel, [heads * head size]."""
        factors: npt.NDArray[np.float32] = np.exp2(np.array(self.exponents)).astype(np.float32)
        return factors


def cache_name(spec: TensorSpec) -> str | None:
    """Return the name of a layer's K or V, such as ``k.3``; None for a tensor that is not of the cache."""
    return f"{_PART[spec.role]}.{spec.layer}" if spec.role in _PART else None


def choose_cache_scales(
    seen: Mapping[str, ChannelStatistics], kind: Format, projections: CacheProjections | None
) -> dict[str, CacheScales]:
    """Choose scale and factors of ``k.0``, ``v.0`` and so on from the statistics of the cache's values.

    Ranges are the largest values with headroom, whatever the method for activations: least squares over the observed
    clips clips the next one, and every step reads the clipped values until they leave the window.
    """
    chosen = {}
    for name, one in sorted(seen.items()):
        amax = np.maximum(one.amax.astype(np.float64), 1e-6)
        if projections is not None and projections.pairs and name[0] == "k":
            amax = np.repeat(amax.reshape(-1, 2).max(1), 2)
        scaled = projections is not None and kind.name == INT8
        exponents = _exponents(amax) if scaled else np.zeros(len(amax))
        scale = float(fp16_scale((amax * np.exp2(exponents)).max() * _HEADROOM[kind.name], kind.largest))
        chosen[name] = CacheScales(scale, tuple(map(float, exponents)), kind.name)
    return chosen


def _exponents(amax: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the exponents that bring each channel's largest value to the median, within the limits of factors."""
    eighths = np.rint(np.log2(np.median(amax) / amax) * PER_OCTAVE)
    exponents: npt.NDArray[np.float64] = np.clip(eighths / PER_OCTAVE, -_MOST_EXPONENT, _MOST_EXPONENT)
    return exponents


def fold_cache(graph: GraphFile, cache: Mapping[str, CacheScales], originals: GraphFile | None = None) -> None:
    """Fold the factors into the projections around the cache, in place; do nothing for a model without them.

    Args:
        graph: Graph in float32 or with FP16 weights.
        cache: The factors.
        originals: The same graph in float32, so that FP16 weights are rounded once; None for ``graph``.

    Raises:
        CalibrationError: The graph lacks such projections.
    """
    projections = graph.parameters.projections
    if projections is None:
        return
    exact = (originals or graph).weights
    for layer in range(len(cache) // 2):
        names = projections.of_layer(layer)
        key, value = (cache[f"{part}.{layer}"].factors for part in "kv")
        rows: dict[str, list[npt.NDArray[Any]]] = {}
        for module, factors in ((names.query, 1 / key), (names.key, key), (names.value, value)):
            rows.setdefault(module, []).append(factors)
        for module, parts in rows.items():
            _scale_rows(graph, exact, module, np.concatenate(parts), is_needed=module in (names.key, names.value))
        name = f"{names.output}.weight"
        if name in graph.weights:  # absent in the last layer of a fill
            graph.weights[name] = _scaled(exact[name], 1 / value[None], like=graph.weights[name])


def _scale_rows(
    graph: GraphFile,
    exact: Mapping[str, npt.NDArray[Any]],
    module: str,
    factors: npt.NDArray[Any],
    *,
    is_needed: bool,
) -> None:
    """Multiply the channels that a module writes; the last layer of a fill may have no queries."""
    weight, bias = f"{module}.weight", f"{module}.bias"
    if weight not in graph.weights and is_needed:
        raise CalibrationError(f"the graph lacks '{weight}', into which the cache's factors are folded")
    for name in (weight, bias):
        if name in graph.weights:
            shaped = factors.reshape(-1, *[1] * (exact[name].ndim - 1))
            graph.weights[name] = _scaled(exact[name], shaped, like=graph.weights[name])


def fold_statistics(
    seen: Mapping[str, Mapping[str, ChannelStatistics]],
    cache: Mapping[str, CacheScales],
    projections: CacheProjections | None,
) -> dict[str, dict[str, ChannelStatistics]]:
    """Return the statistics of the folded model: inputs of the output projections are scaled by V's factors."""
    factors = {}
    for layer in range(len(cache) // 2 if projections is not None else 0):
        assert projections is not None
        factors[projections.of_layer(layer).output] = cache[f"v.{layer}"].factors
    return {
        stage: {
            site: one.scaled(factors[site].astype(np.float64)) if site in factors else one for site, one in by.items()
        }
        for stage, by in seen.items()
    }


def quantize_cache(graph: GraphFile, cache: Mapping[str, CacheScales]) -> None:
    """Store the cache in 8 bits, in place: dequantize it at each read and quantize it at each write."""
    import onnx

    model = graph.model.graph
    before: list[Any] = []
    after: list[Any] = []
    renamed: dict[str, str] = {}
    newer = False
    read = {value.name for value in model.input}
    names = {spec.name: cache_name(spec) for spec in graph.specs}
    for value in (*model.input, *model.output):
        name = names.get(value.name)
        if name is None or name not in cache:
            continue
        stored = cache[name]
        newer |= stored.format == FP8 or value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        operands = _operands(graph, value.name, stored, dtype)
        value.type.tensor_type.elem_type = stored.kind.onnx_type
        floating = graph.fresh_name(f"{value.name}.floating")
        renamed[value.name] = floating
        if value.name in read:
            before.append(_node("DequantizeLinear", [value.name, *operands], floating, f"{value.name}.dq"))
        else:
            after.append(_node("QuantizeLinear", [floating, *operands], value.name, f"{value.name}.q"))
    for node in graph.nodes:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    graph.replace_nodes([*before, *graph.nodes, *after])
    graph.raise_opset(19 if newer else 13)


def _operands(graph: GraphFile, stem: str, stored: CacheScales, dtype: Any) -> Sequence[str]:
    scale, zero = graph.fresh_name(f"{stem}.scale"), graph.fresh_name(f"{stem}.zero")
    graph.weights[scale] = np.array(stored.scale, dtype)
    graph.weights[zero] = stored.kind.encode(np.array(0.0))
    if stored.format == FP8:
        graph.float8.add(zero)
    return scale, zero


def _node(kind: str, inputs: Sequence[str], output: str, name: str) -> Any:
    from onnx.helper import make_node

    return make_node(kind, inputs, [output], name=name)


def _scaled(data: npt.NDArray[Any], factors: npt.NDArray[Any], *, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    scaled: npt.NDArray[Any] = (data.astype(np.float32) * factors).astype(like.dtype)
    return scaled
