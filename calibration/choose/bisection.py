"""Bisection: the groups of layers that make a precision miss its bound, found by keeping halves in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle import Stage, choose_measured_precision, format_count, format_nbytes, open_bundle
from ...errors import CalibrationError
from ...hosts import need_packages
from ...runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from ...runtime.sampling.session_arguments import session_arguments
from ...runtime.session.model import Model
from ..gates import DEFAULT_GATES
from ..graph.graph_file import GraphFile, load_graph
from ..graph.linears import find_linears, group_of
from ..graph.mixed import half_layers
from ..graph.quantization import quantization_of
from ..graph.rendering import codes_of, render
from ..graph.widening import half_tensors, widen
from ..observe.data import CalibrationSet, read_set
from ..scratch import scratch_folder
from ..verify.reference import reference_bundle, reference_graphs
from .guard import layers_of
from .remedy import remedy_command
from .sensitivity import Bench, estimate_speed, shares_of

if TYPE_CHECKING:
    from ...bundle import Bundle, Precision
    from ..graph.quantization import Quantization
    from ..verify.request import VerifyRequest

__all__ = ["Bisection", "bisect", "bisect_request", "keep_from_half", "smallest_cause"]

# The KV cache counts as one more group.
_CACHE = "the cache"
Graphs = Mapping[str, GraphFile]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Bisection:
    """Result of a bisection on short free-running rollouts against float32.

    Attributes:
        precision: The bisected precision.
        bound: Wanted PSNR in dB.
        before: PSNR with nothing kept in float32.
        after: PSNR with ``groups`` kept.
        groups: Minimal set of groups of layers that must be kept; empty where none must.
        share: Their part of a denoising step's operations.
        slower: Factor on the time of a denoising step with them kept, if narrow products are twice as fast.
        weights_nbytes: Additional bytes of their weights.
        tried: Variants that were run.
        remedy: The command that keeps them; "" where nothing is to be kept, or no command can keep it.
    """

    precision: Precision
    bound: float
    before: float
    after: float
    groups: tuple[str, ...]
    share: float
    slower: float
    weights_nbytes: int
    tried: int
    remedy: str = ""

    def describe(self) -> str:
        """Return a summary in one to three lines."""
        if not self.groups:
            return (
                f"{self.precision}: {self.before:.1f} dB on short rollouts, wanted {self.bound:g}: no group is at fault"
            )
        return (
            f"{self.precision}: {self.before:.1f} dB on short rollouts, wanted {self.bound:g}; at fault: "
            f"{', '.join(self.groups)}\nkept in float32: {self.after:.1f} dB, {100 * self.share:.1f} % of a denoising "
            f"step's operations, which takes an estimated {self.slower:.2f} times as long, "
            f"{format_nbytes(self.weights_nbytes)} more of weights ({format_count(self.tried, 'variant')} tried)"
            + (f"\nto keep them: {self.remedy}" if self.remedy else "")
        )


def bisect_request(request: VerifyRequest, *, on_progress: Progress = lambda done, total: None) -> Bisection:
    """Bisect the precision of a ``vdmrt verify``; the bound is its gate on PSNR, teacher-forced before free-running.

    Args:
        request: The options of the verification.
        on_progress: Called with the variants that were run and an estimate of their number.

    Raises:
        CalibrationError: As :func:`bisect`.
        BundleError: The bundle is altered, or does not contain that precision.
        MediaError: The data cannot be read.
    """
    need_packages("calibrate", "vdmrt verify --bisect", "onnx", "onnxruntime", fail=CalibrationError)
    bundle = open_bundle(request.bundle)
    precision = choose_measured_precision(bundle, request.precision)
    data = CalibrationSet((), (), "")
    if request.data is not None:
        with Model(bundle, OnnxRuntimeBackend(threads=request.threads), precision) as model:
            data = read_set(request.data, model)
    gates = request.gates or {}
    bounds = [gates[name] for name in ("teacher-psnr", "free-psnr") if name in gates]
    quantization = quantization_of(bundle, precision)
    found = bisect(
        bundle,
        precision,
        data,
        bounds[0] if bounds else DEFAULT_GATES["teacher-psnr"],
        quantization,
        options=session_arguments(request),
        threads=request.threads,
        on_progress=on_progress,
    )
    return dataclasses.replace(found, remedy=_remedy(bundle, found, quantization, request)) if found.groups else found


def _remedy(bundle: Bundle, found: Bisection, quantization: Quantization, request: VerifyRequest) -> str:
    graphs = bundle.manifest.graphs[found.precision].values()
    layers = list(quantization.linears) or half_layers(load_graph(bundle, graph) for graph in graphs)
    groups = [group for group in found.groups if group != _CACHE]
    return remedy_command(bundle, found.precision, groups, layers, cache=_CACHE in found.groups, data=request.data)


def bisect(
    bundle: Bundle,
    precision: Precision,
    data: CalibrationSet,
    bound: float,
    quantization: Quantization,
    *,
    options: Mapping[str, Any] | None = None,
    threads: int | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Bisection:
    """Find the groups of layers that make a precision miss its bound, by bisection.

    FP16 is emulated in float32 graphs that round every tensor to FP16, because the CPU provider does not round.

    Args:
        bundle: Bundle that contains the precision.
        precision: fp16, or one that vdmrt calibrate made.
        data: Clips that rollouts continue from; without clips, seeded normals.
        bound: Wanted PSNR in dB, over 3 free-running chunks of 2 rollouts.
        quantization: Quantization of the precision; for fp16 one without linears.
        options: Further arguments of :meth:`Model.session`.
        threads: Threads of the CPU provider.
        on_progress: Called with the variants that were run and an estimate of their number, for one group at fault.

    Raises:
        CalibrationError: The precision is float32, or misses the bound even with every group in float32.
    """
    eight = bool(quantization.linears or quantization.cache)
    exact = reference_graphs(bundle)
    quantizations = {stage: _as_rendered(bundle, precision, stage, quantization) for stage in exact if eight}
    half = {} if eight else {stage: _opened(bundle, precision, stage) for stage in exact}
    groups = _quantized_groups(quantization) if eight else _half_groups(half)
    if not groups:
        raise CalibrationError(f"{precision} computes nothing below float32, so there is nothing to bisect")
    estimate = 2 + 2 * len(groups).bit_length()

    def variant(kept: Sequence[str]) -> dict[str, GraphFile]:
        if not eight:
            return {stage: keep_from_half(graph, exact[stage], kept) for stage, graph in half.items()}
        return {stage: _keep_from_quantized(graph, stage, quantizations[stage], kept) for stage, graph in exact.items()}

    with scratch_folder("bisect") as folder:
        reference = reference_bundle(bundle, folder / "reference")
        (folder / "variants").mkdir()
        bench = Bench(reference, exact, data, folder / "variants", options or {}, threads)
        found: dict[tuple[str, ...], float] = {}

        def measure(kept: Sequence[str]) -> float:
            key = tuple(sorted(kept))
            if key not in found:
                found[key] = bench.measure_graphs(variant(kept), quantization.format if quantization.linears else None)
                on_progress(len(found), max(estimate, len(found) + 1))
            return found[key]

        before = measure(())
        cause = smallest_cause(groups, lambda kept: measure(kept) >= bound)
        if cause is None:
            raise CalibrationError(
                f"{precision} has {measure(groups):.1f} dB with every group of layers in float32, wanted {bound:g}; "
                "ask for less"
            )
        return _summarize(reference, exact, precision, bound, before, measure(cause), cause, eight, len(found))


def smallest_cause(groups: Sequence[str], holds: Callable[[Sequence[str]], bool]) -> list[str] | None:
    """Return a minimal set of groups that must be kept for ``holds``; None where all of them do not suffice.

    By halves (QuickXplain, Junker 2004): one culprit among n takes about 2·log2(n) trials.

    Args:
        groups: All groups.
        holds: Whether the bound holds with the given groups kept; assumed monotonic.
    """
    if holds([]):
        return []
    return _explain([], groups, False, holds) if holds(groups) else None


def _explain(
    kept: Sequence[str], groups: Sequence[str], grown: bool, holds: Callable[[Sequence[str]], bool]
) -> list[str]:
    if grown and holds(kept):
        return []
    if len(groups) == 1:
        return list(groups)
    first, second = groups[: len(groups) // 2], groups[len(groups) // 2 :]
    of_second = _explain([*kept, *first], second, True, holds)
    of_first = _explain([*kept, *of_second], first, bool(of_second), holds)
    return [*of_first, *of_second]


def keep_from_half(graph: GraphFile, exact: GraphFile, kept: Sequence[str]) -> GraphFile:
    """Return a float32 graph that rounds to FP16 where the FP16 graph does, except in some groups.

    Args:
        graph: The graph with FP16 tensors.
        exact: The same graph in float32; the kept groups get its weights.
        kept: Groups that are not rounded.
    """
    from onnx import TensorProto
    from onnx.helper import make_node

    layers, rounded = layers_of(graph), set(half_tensors(graph))
    widened = widen(graph, idle_casts=True)
    for linear in find_linears(widened):
        if linear.group in kept:
            for name in filter(None, (linear.weight, linear.bias)):
                widened.weights[name] = np.asarray(exact.weights[name], np.float32)
    nodes = []
    for node in widened.nodes:
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name not in rounded or group_of(layers[name]) in kept:
                continue
            node.output[place] = f"{name}.unrounded"
            nodes.append(make_node("Cast", [f"{name}.unrounded"], [f"{name}.half"], to=TensorProto.FLOAT16))
            nodes.append(make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    widened.replace_nodes(nodes)
    return widened


def _as_rendered(bundle: Bundle, precision: Precision, stage: str, quantization: Quantization) -> Quantization:
    """Return the quantization of the linears that are 8 bit in a stage's graph, with their stored bytes."""
    codes = codes_of(load_graph(bundle, bundle.manifest.graphs[precision][stage]))
    return dataclasses.replace(quantization, linears={name: quantization.linears[name] for name in codes}, codes=codes)


def _keep_from_quantized(graph: GraphFile, stage: str, quantization: Quantization, kept: Sequence[str]) -> GraphFile:
    # The stored weights are folded for the cache, so the cache stays folded where it is kept.
    return render(graph, stage, quantization.keeping(kept), narrow_cache=_CACHE not in kept)


def _quantized_groups(quantization: Quantization) -> list[str]:
    groups = sorted({group_of(name) for name in quantization.linears})
    return [*groups, _CACHE] if quantization.cache else groups


def _opened(bundle: Bundle, precision: Precision, stage: str) -> GraphFile:
    """Return a graph with functions inlined, so that tensors inside them are rounded too."""
    return load_graph(bundle, bundle.manifest.graphs[precision][stage]).inlined()


def _half_groups(half: Graphs) -> list[str]:
    return list(dict.fromkeys(map(group_of, half_layers(half.values()))))


def _summarize(
    reference: Bundle,
    exact: Graphs,
    precision: Precision,
    bound: float,
    before: float,
    after: float,
    cause: Sequence[str],
    eight: bool,
    tried: int,
) -> Bisection:
    linears = {linear.name: linear for graph in exact.values() for linear in find_linears(graph)}
    share = shares_of(reference, exact[Stage.DENOISE], linears)
    rest = [group for group in share if group not in cause]
    own = [linear for linear in linears.values() if linear.group in cause]
    return Bisection(
        precision=precision,
        bound=bound,
        before=before,
        after=after,
        groups=tuple(cause),
        share=sum(share.get(group, 0.0) for group in cause),
        slower=estimate_speed(share, share) / estimate_speed(share, rest),
        weights_nbytes=sum(one.inputs * one.outputs for one in own) * (3 if eight else 2),
        tried=tried,
    )
