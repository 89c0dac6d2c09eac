"""Export of a checkpoint to a bundle of ONNX graphs. Only this folder needs torch, which is imported on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import offer as _offer

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

__getattr__, __dir__ = _offer(__name__, _HOMES)
