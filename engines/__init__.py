"""Engines built from bundles: planning of their cost, builds, and audits of the result."""

from __future__ import annotations

from .building import build_engines, trtexec_line
from .inspection import cache_nbytes, inspect_bundle
from .keys import engine_key
from .onnxruntime.models import ModelOptions, build_models
from .planner import EnginePlan, check_fit, plan_engine
from .tensorrt.audit import (
    Layer,
    Tensor,
    audit_layers,
    check_precision,
    read_layers,
)
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
    "trtexec_line",
]
