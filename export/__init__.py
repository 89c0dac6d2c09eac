"""From a checkpoint to a bundle of ONNX graphs. The only folder that needs torch, and only where it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import PRESETS, load_config
    from .checkpoint import load_model, read_checkpoint
    from .config import TransformerConfig
    from .exporter import export_bundle, random_model
    from .options import ExportOptions
    from .transformer import CausalTransformer
    from .uncached import predict_uncached

__all__ = [
    "PRESETS",
    "CausalTransformer",
    "ExportOptions",
    "TransformerConfig",
    "export_bundle",
    "load_config",
    "load_model",
    "predict_uncached",
    "random_model",
    "read_checkpoint",
]

_HOMES = {
    "PRESETS": "arguments",
    "CausalTransformer": "transformer",
    "ExportOptions": "options",
    "TransformerConfig": "config",
    "export_bundle": "exporter",
    "load_config": "arguments",
    "load_model": "checkpoint",
    "predict_uncached": "uncached",
    "random_model": "exporter",
    "read_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line lists ``export`` without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
