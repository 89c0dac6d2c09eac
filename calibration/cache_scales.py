"""An INT8 cache: one scale for K and one for V of each layer; what differs between channels goes into the projections.

Each channel of K is multiplied by a power of two and its query divided by the same, each channel of V multiplied and
the output projection's column divided. Powers of two change no bit of a mantissa, so that the folded model is the same
model, and one scale then serves channels of different size. RoPE mixes the two channels of a pair, which therefore
share their factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import CalibrationError
from .formats import FORMATS, fp16_scale
from .graph_file import GraphFile
from .ranges import Method, choose_amax
from .statistics import ChannelStatistics

__all__ = ["CacheScales", "choose_cache_scales", "fold_cache", "fold_statistics", "quantise_cache"]

Part = Literal["k", "v"]
# FP16 weights keep all their bits under so small factors.
_MOST_EXPONENT = 4


@dataclass(frozen=True)
class CacheScales:
    """How the K or the V of a layer is stored.

    Attributes:
        scale: What a step is worth, FP16-representable.
        exponents: What each channel is multiplied by before it is stored, as powers of two, [heads * head size].
    """

    scale: float
    exponents: tuple[int, ...]

    @property
    def factors(self) -> npt.NDArray[np.float32]:
        """The factor of each channel, [heads * head size]."""
        factors: npt.NDArray[np.float32] = np.exp2(np.array(self.exponents)).astype(np.float32)
        return factors


def choose_cache_scales(seen: Mapping[str, ChannelStatistics], *, rope: bool, method: Method) -> dict[str, CacheScales]:
    """Choose scale and factors of ``k.0``, ``v.0`` and so on from what entered the cache."""
    int8 = FORMATS["int8"]
    chosen = {}
    for name, one in sorted(seen.items()):
        amax = np.maximum(one.amax.astype(np.float64), 1e-6)
        if rope and name.startswith("k"):
            amax = np.repeat(amax.reshape(-1, 2).max(1), 2)
        exponents = np.clip(np.rint(np.log2(np.median(amax) / amax)), -_MOST_EXPONENT, _MOST_EXPONENT)
        folded = one.scaled(np.exp2(exponents))
        clip = choose_amax(method, folded.histogram, folded.amax, np.ones(len(amax)), int8)
        scale = float(fp16_scale(np.array(clip), int8.largest))
        chosen[name] = CacheScales(scale, tuple(int(one) for one in exponents))
    return chosen


def fold_cache(graph: GraphFile, cache: Mapping[str, CacheScales]) -> None:
    """Fold the factors into the temporal attention's projections, in place.

    Raises:
        CalibrationError: The graph has no such projections.
    """
    for layer in range(len(cache) // 2):
        key, value = (cache[f"{part}.{layer}"].factors for part in "kv")
        rows = np.concatenate([1 / key, key, value])
        stem = f"blocks.{layer}.attn_temp"
        for name in (f"{stem}.qkv.weight", f"{stem}.qkv.bias"):
            if name not in graph.weights:
                raise CalibrationError(f"the graph has no '{name}', into which the cache's factors are folded")
            data = graph.weights[name]
            graph.weights[name] = _scaled(data, rows.reshape(-1, *[1] * (data.ndim - 1)))
        if f"{stem}.proj.weight" in graph.weights:  # the last layer of a fill ends before it
            graph.weights[f"{stem}.proj.weight"] = _scaled(graph.weights[f"{stem}.proj.weight"], 1 / value[None])


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
    """Store the cache in INT8, in place: ``past_*`` is dequantised at the start, ``present_*`` quantised at the end."""
    import onnx

    model = graph.model.graph
    before: list[Any] = []
    after: list[Any] = []
    renamed: dict[str, str] = {}
    half = False
    for value in (*model.input, *model.output):
        stem, _, name = value.name.partition("_")
        if stem not in ("past", "present") or name not in cache:
            continue
        half |= value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        operands = _operands(graph, value.name, cache[name].scale, dtype)
        value.type.tensor_type.elem_type = onnx.TensorProto.INT8
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
    graph.raise_opset(19 if half else 13)


def _operands(graph: GraphFile, stem: str, scale: float, dtype: Any) -> Sequence[str]:
    names = graph.fresh_name(f"{stem}.scale"), graph.fresh_name(f"{stem}.zero")
    graph.weights[names[0]] = np.array(scale, dtype)
    graph.weights[names[1]] = np.array(0, np.int8)
    return names


def _node(kind: str, inputs: Sequence[str], output: str, name: str) -> Any:
    from onnx.helper import make_node

    return make_node(kind, inputs, [output], name=name)


def _scaled(data: npt.NDArray[Any], factors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    scaled: npt.NDArray[Any] = (data.astype(np.float32) * factors).astype(data.dtype)
    return scaled
