"""Roofline of the device: ceilings measured in the same run, and each stage relative to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...bundle import FP32, Role, Stage, format_count, format_nbytes
from ...hosts.onnxruntime import open_onnxruntime
from ...runtime._core import host_device
from ...runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from ..report.report import Ceilings, RooflineStage
from .gpu_ceilings import measure_gpu_ceilings

if TYPE_CHECKING:
    from ...runtime.session.model import Model
    from .statistics import Summary

__all__ = ["best_ceilings", "measure_ceilings", "place_stages"]

_SIDE = 1024
# Larger than the last-level cache available to one process.
_COPY_NBYTES = 128 << 20
_RUNS = 7
# Wire types of protobuf, and numbers of onnx.proto.
_VARINT, _BYTES = 0, 2
_FLOAT = 1


def measure_ceilings(model: Model) -> tuple[Ceilings | None, str | None]:
    """Measure the fastest matrix product and copy of the backend that runs ``model``.

    On the CPU: a product in ONNX Runtime with the model's own threads and options, and a copy by as many threads. On a
    GPU: a product of the graphs' precision in cuBLAS, and a copy within its memory.

    Returns:
        The ceilings, None for a backend without such a measurement; and the reason for missing ones, for a note.

    Raises:
        DeviceError: A GPU lacks free memory, or a call failed.
    """
    backend = model.backend
    if backend.device_name != "host":
        # Type of the graph's products; those that are not float32 are half, except quantized ones.
        dtype = "float32" if model.precision.linears == FP32.linears else "float16"
        return measure_gpu_ceilings(backend.open_device(), dtype)
    if not isinstance(backend, OnnxRuntimeBackend):
        return None, f"no roofline: measuring the ceilings of {backend.name} is not supported"
    return _measure_cpu_ceilings(backend), None


def _measure_cpu_ceilings(backend: OnnxRuntimeBackend) -> Ceilings:
    seconds = _best(_product(backend))
    copied = _best(_copy(backend.threads))
    return Ceilings(
        flops_per_second=2 * _SIDE**3 / seconds,
        bytes_per_second=2 * _COPY_NBYTES / copied,
        product=f"float32 {_SIDE}×{_SIDE} by {_SIDE}×{_SIDE} in ONNX Runtime, best of {2 * _RUNS}",
        copy=f"{format_nbytes(_COPY_NBYTES)} by {format_count(backend.threads, 'thread')}, read and written bytes, "
        f"best of {2 * _RUNS}",
    )


def best_ceilings(one: Ceilings | None, other: Ceilings | None) -> Ceilings | None:
    """Return the higher of two measurements of the same ceilings."""
    if one is None or other is None:
        return one or other
    products = one if (one.flops_per_second or 0) >= (other.flops_per_second or 0) else other
    return replace(products, bytes_per_second=max(one.bytes_per_second, other.bytes_per_second))


def place_stages(model: Model, ceilings: Ceilings, stages: Mapping[str, Summary]) -> tuple[RooflineStage, ...]:
    """Place the denoising step, the cache fill and the decoding of a chunk under the roofline, if it is complete."""
    if ceilings.flops_per_second is None:
        return ()
    graphs = model.bundle.graphs(model.precision)
    runs = {"step": (graphs[Stage.DENOISE], 1), Stage.FILL: (graphs[Stage.FILL], 1)}
    decoder = model.manifest.components.get(Stage.VAE_DECODE)
    if decoder is not None and "decode" in stages:
        batch = decoder.tensor(Role.LATENT).shape[0]
        runs["decode"] = (decoder, -(-model.manifest.geometry.chunk_frames // batch))
    return tuple(
        _place(name, count * graph.flops, count * graph.nbytes_moved, ceilings, stages[name].median)
        for name, (graph, count) in runs.items()
    )


def _place(name: str, flops: int, nbytes: int, ceilings: Ceilings, measured_ms: float) -> RooflineStage:
    compute_ms = flops / (ceilings.flops_per_second or 1) * 1e3
    memory_ms = nbytes / ceilings.bytes_per_second * 1e3
    bound_ms = max(compute_ms, memory_ms)
    return RooflineStage(
        stage=name,
        flops=flops,
        nbytes=nbytes,
        intensity=flops / nbytes if nbytes else 0.0,
        bound_ms=bound_ms,
        measured_ms=measured_ms,
        fraction=bound_ms / measured_ms if measured_ms else 0.0,
        limit="compute" if compute_ms >= memory_ms else "memory",
    )


def _best(run: Callable[[], object]) -> float:
    """Return the least time of a few runs in seconds, after a warm-up run: a ceiling is the best that was reached."""
    run()
    times = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def _copy(threads: int) -> Callable[[], object]:
    device = host_device()
    source, target = device.allocate(_COPY_NBYTES), device.allocate(_COPY_NBYTES)
    part = _COPY_NBYTES // threads
    pool = ThreadPoolExecutor(threads)

    def copy(offset: int) -> None:
        device.copy_3d(
            target.address + offset,
            source.address + offset,
            width=part,
            height=1,
            depth=1,
            destination_pitch=part,
            destination_height=1,
            source_pitch=part,
            source_height=1,
        )

    return lambda: list(pool.map(copy, [part * number for number in range(threads)]))


def _product(backend: OnnxRuntimeBackend) -> Callable[[], object]:
    """Return a function that runs one product with a constant right side, as in the graphs."""
    onnxruntime = open_onnxruntime("measuring the roofline")
    options = backend.session_options()
    session = onnxruntime.InferenceSession(_product_graph(_SIDE), options, providers=["CPUExecutionProvider"])
    feed = {"x": np.ones((_SIDE, _SIDE), np.float32)}
    return lambda: session.run(None, feed)


def _product_graph(side: int) -> bytes:
    """Return a serialized ONNX model y = x · w, encoded here because the onnx package is not required at run time."""
    weights = np.full((side, side), 1 / side, np.float32).tobytes()
    tensor = _int(1, side) + _int(1, side) + _int(2, _FLOAT) + _field(8, b"w") + _field(9, weights)
    node = _field(1, b"x") + _field(1, b"w") + _field(2, b"y") + _field(4, b"MatMul")
    shape = _field(1, _int(1, side)) * 2
    kind = _field(1, _int(1, _FLOAT) + _field(2, shape))
    graph = _field(1, node) + _field(2, b"product") + _field(5, tensor)
    graph += _field(11, _field(1, b"x") + _field(2, kind)) + _field(12, _field(1, b"y") + _field(2, kind))
    return _int(1, 8) + _field(7, graph) + _field(8, _field(1, b"") + _int(2, 18))


def _int(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
