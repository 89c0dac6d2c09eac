"""Engines built from bundles: planning of their cost, builds, and audits of the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import offer as _offer

if TYPE_CHECKING:
    from .building import build_engines, runs_here, trtexec_line
    from .inspection import cache_nbytes, inspect_bundle
    from .keys import engine_key
    from .onnxruntime.models import ModelOptions, build_models
    from .planner import EnginePlan, check_fit, plan_engine
    from .tensorrt.audit import audit_layers, check_precision
    from .tensorrt.layers import Layer, Tensor, read_layers
    from .tensorrt.lowering import (
        GraphSource,
        find_source,
        lower_graphs,
        needs_lowering,
    )
    from .tensorrt.options import BuildOptions

__all__ = [
    "BuildOptions",
    "EnginePlan",
    "GraphSource",
    "Layer",
    "ModelOptions",
    "Tensor",
    "audit_layers",
    "build_engines",
    "build_models",
    "cache_nbytes",
    "check_fit",
    "check_precision",
    "engine_key",
    "find_source",
    "inspect_bundle",
    "lower_graphs",
    "needs_lowering",
    "plan_engine",
    "read_layers",
    "runs_here",
    "trtexec_line",
]

_HOMES = {
    "BuildOptions": "tensorrt.options",
    "EnginePlan": "planner",
    "GraphSource": "tensorrt.lowering",
    "Layer": "tensorrt.layers",
    "ModelOptions": "onnxruntime.models",
    "Tensor": "tensorrt.layers",
    "audit_layers": "tensorrt.audit",
    "build_engines": "building",
    "build_models": "onnxruntime.models",
    "cache_nbytes": "inspection",
    "check_fit": "planner",
    "check_precision": "tensorrt.audit",
    "engine_key": "keys",
    "find_source": "tensorrt.lowering",
    "inspect_bundle": "inspection",
    "lower_graphs": "tensorrt.lowering",
    "needs_lowering": "tensorrt.lowering",
    "plan_engine": "planner",
    "read_layers": "tensorrt.layers",
    "runs_here": "building",
    "trtexec_line": "building",
}

__getattr__, __dir__ = _offer(__name__, _HOMES)
