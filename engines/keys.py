"""Names of engines: short and readable, with a hash of everything that affects the plans."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..bundle import Graph, Machine, Precision

__all__ = ["engine_key"]

_DIGITS = 12


def engine_key(precision: Precision, graphs: Mapping[str, Graph], machine: Machine, options: Mapping[str, str]) -> str:
    """Return the name of an engine's folder, such as ``trt10.3.0-sm90-h100-80gb-hbm3-fp16-1f2e3d4c5b6a``.

    The hash covers the SHA-256 of every graph and of its weights, the options, and the machine: TensorRT, CUDA, driver,
    compute capability and GPU; or ONNX Runtime, provider and CPU (``ort1.32.0-cpu-fp16-1f2e3d4c5b6a``); or TensorRT for
    RTX alone, whose GPUs are an option (``rtx1.7.1.116-sm86-sm89-fp16-1f2e3d4c5b6a``).
    """
    described: dict[str, Any] = {
        "precision": str(precision),
        "graphs": {
            stage: [graph.file.sha256, graph.weights.sha256 if graph.weights else None]
            for stage, graph in sorted(graphs.items())
        },
        "machine": dataclasses.astuple(machine),
        "options": dict(sorted(options.items())),
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:_DIGITS]
    if machine.backend == "onnxruntime":
        provider = machine.provider.removesuffix("ExecutionProvider")
        return f"ort{_plain(machine.onnxruntime)}-{_plain(provider)}-{precision}-{digest}"
    if machine.backend == "tensorrt-rtx":
        targets = options.get("targets", "")
        gpus = "-".join(f"sm{each.replace('.', '')}" for each in targets.split(", ")) if targets else "portable"
        return f"rtx{_plain(machine.tensorrt_rtx)}-{gpus}-{precision}-{digest}"
    capability = machine.compute_capability.replace(".", "")
    return f"trt{_plain(machine.tensorrt)}-sm{capability}-{_plain(machine.gpu)}-{precision}-{digest}"


def _plain(text: str) -> str:
    """Return text reduced to characters that are safe in a file name, and shortened."""
    text = re.sub(r"^nvidia\s+(geforce\s+)?", "", text, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:40] or "gpu"
