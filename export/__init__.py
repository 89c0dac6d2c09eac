"""Export of a checkpoint to a bundle of ONNX graphs. Only this folder needs torch, which is imported on use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import load_config
    from .checkpoint import load_model, read_checkpoint
    from .exporter import export_bundle, random_model
    from .families import register_family
    from .families.ca2vdm.arguments import PRESETS
    from .families.ca2vdm.config import TransformerConfig
    from .families.ca2vdm.transformer import CausalTransformer
    from .families.ca2vdm.uncached import predict_uncached
    from .options import ExportOptions

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
    "register_family",
]

_HOMES = {
    "PRESETS": "families.ca2vdm.arguments",
    "CausalTransformer": "families.ca2vdm.transformer",
    "ExportOptions": "options",
    "TransformerConfig": "families.ca2vdm.config",
    "export_bundle": "exporter",
    "load_config": "arguments",
    "load_model": "checkpoint",
    "predict_uncached": "families.ca2vdm.uncached",
    "random_model": "exporter",
    "read_checkpoint": "checkpoint",
    "register_family": "families",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line lists ``export`` without importing torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the names of the package; they are imported on first use."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
