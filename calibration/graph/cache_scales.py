"""An 8 bit cache: one scale for K and one for V of each layer; what differs between channels goes into the projections.

Each channel of K is multiplied by a factor and its query divided by the same, each channel of V multiplied and the
output projection's column divided: the same model, but for the last bit of these weights. One scale then serves
channels of different size. RoPE mixes the two channels of a pair, which therefore share their factor. FP8's steps grow
with the values, so its factors are 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ...bundle import FP8, INT8, EightBits
from ...errors import CalibrationError
from ..observe.statistics import PER_OCTAVE, ChannelStatistics
from .formats import FORMATS, Format, fp16_scale
from .graph_file import GraphFile

__all__ = ["CacheScales", "choose_cache_scales", "fold_cache", "fold_statistics", "quantise_cache"]

Part = Literal["k", "v"]
# FP16 weights keep all their bits under so small factors.
_MOST_EXPONENT = 4
# Other clips have larger values than those that were seen. A quarter of an octave on top loses INT8 a quarter of a bit;
# FP8 has fifteen octaves of even precision, so that two of them cost it nothing.
_HEADROOM = {INT8: 2**0.25, FP8: 4.0}


@dataclass(frozen=True)
class CacheScales:
    """How the K or the V of a layer is stored.

    Attributes:
        scale: What a step is worth, FP16-representable.
        exponents: What each channel is multiplied by before it is stored, as powers of two, in eighths, because the
            histograms of what reads the channels then move by whole bins, [heads * head size].
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


def choose_cache_scales(seen: Mapping[str, ChannelStatistics], kind: Format, *, rope: bool) -> dict[str, CacheScales]:
    """Choose scale and factors of ``k.0``, ``v.0`` and so on from what entered the cache.

    By the largest values and with headroom, whatever the method for activations is: least squares over the clips that
    were seen clips the next one, and what is clipped is read by every step until it leaves the window.
    """
    chosen = {}
    for name, one in sorted(seen.items()):
        amax = np.maximum(one.amax.astype(np.float64), 1e-6)
        if rope and name.startswith("k"):
            amax = np.repeat(amax.reshape(-1, 2).max(1), 2)
        exponents = _exponents(amax) if kind.name == INT8 else np.zeros(len(amax))
        scale = float(fp16_scale((amax * np.exp2(exponents)).max() * _HEADROOM[kind.name], kind.largest))
        chosen[name] = CacheScales(scale, tuple(map(float, exponents)), kind.name)
    return chosen


def _exponents(amax: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what brings each channel's largest value to the median one's, as far as factors may go."""
    eighths = np.rint(np.log2(np.median(amax) / amax) * PER_OCTAVE)
    exponents: npt.NDArray[np.float64] = np.clip(eighths / PER_OCTAVE, -_MOST_EXPONENT, _MOST_EXPONENT)
    return exponents


def fold_cache(graph: GraphFile, cache: Mapping[str, CacheScales], originals: GraphFile | None = None) -> None:
    """Fold the factors into the temporal attention's projections, in place.

    Args:
        graph: In float32 or with FP16 weights.
        cache: The factors.
        originals: The same graph in float32, so that FP16 weights are rounded once; None for this one.

    Raises:
        CalibrationError: The graph has no such projections.
    """
    exact = (originals or graph).weights
    for layer in range(len(cache) // 2):
        key, value = (cache[f"{part}.{layer}"].factors for part in "kv")
        rows = np.concatenate([1 / key, key, value])
        stem = f"blocks.{layer}.attn_temp"
        for name in (f"{stem}.qkv.weight", f"{stem}.qkv.bias"):
            if name not in graph.weights:
                raise CalibrationError(f"the graph has no '{name}', into which the cache's factors are folded")
            graph.weights[name] = _scaled(
                exact[name], rows.reshape(-1, *[1] * (exact[name].ndim - 1)), like=graph.weights[name]
            )
        name = f"{stem}.proj.weight"
        if name in graph.weights:  # the last layer of a fill ends before it
            graph.weights[name] = _scaled(exact[name], 1 / value[None], like=graph.weights[name])


def fold_statistics(
    seen: Mapping[str, Mapping[str, ChannelStatistics]], cache: Mapping[str, CacheScales]
) -> dict[str, dict[str, ChannelStatistics]]:
    """Return the statistics of the folded model: what the output projections read has V's factors."""
    factors = {f"blocks.{name[2:]}.attn_temp.proj": one.factors for name, one in cache.items() if name[0] == "v"}
    return {
        stage: {
            site: one.scaled(factors[site].astype(np.float64)) if site in factors else one for site, one in by.items()
        }
        for stage, by in seen.items()
    }


def quantise_cache(graph: GraphFile, cache: Mapping[str, CacheScales]) -> None:
    """Store the cache in 8 bits, in place: ``past_*`` is dequantised at the start and ``present_*`` quantised last."""
    import onnx

    model = graph.model.graph
    before: list[Any] = []
    after: list[Any] = []
    renamed: dict[str, str] = {}
    newer = False
    for value in (*model.input, *model.output):
        stem, _, name = value.name.partition("_")
        if stem not in ("past", "present") or name not in cache:
            continue
        stored = cache[name]
        newer |= stored.format == FP8 or value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        operands = _operands(graph, value.name, stored, dtype)
        value.type.tensor_type.elem_type = stored.kind.onnx_type
        floating = graph.fresh_name(f"{value.name}.floating")
        renamed[value.name] = floating
        if stem == "past":
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
