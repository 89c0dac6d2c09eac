"""Conversion of the reference code's constructor arguments to the architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ....errors import ExportError
from .config import (
    TransformerConfig,
    check_values,
    find_size_misfit,
)

if TYPE_CHECKING:
    from .config import (
        Context,
        Positions,
    )

__all__ = ["PRESETS", "config_from_arguments", "with_latent_size"]

# DiT's sizes (Peebles & Xie 2023, table 1); Ca2-VDM publishes XL/2.
PRESETS: Mapping[str, Mapping[str, int]] = {
    "CausalSTDiT2-XL/2": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
    "CausalSTDiT2-L/2": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "CausalSTDiT2-B/2": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "CausalSTDiT2-S/2": {"hidden_size": 384, "depth": 12, "num_heads": 6},
}

# Defaults of the paper's models: three context frames, 25 cached + 8 new latent frames.
_PRESET_DEFAULTS: Mapping[str, Any] = {
    "input_size": [8, 32, 32],
    "relative_tpe_mode": "cyclic",
    "max_tpe_len": 33,
    "spatial_attn_enhance": "prev_frames_3",
}

# Attributes with another name in the reference's constructor.
_SPELLINGS: Mapping[str, str] = {
    "latent_size": "input_size",
    "latent_channels": "in_channels",
    "heads": "num_heads",
    "text_width": "caption_channels",
    "text_tokens": "model_max_length",
    "position_count": "max_tpe_len",
}

# Constructor arguments of the reference without effect on sampling.
_WITHOUT_EFFECT = {
    "class_dropout_prob",
    "enable_flashattn",
    "enable_layernorm_kernel",
    "enable_sequence_parallelism",
    "drop_path",
    "dtype",
    "from_pretrained",
    "no_temporal_pos_emb",
    "type",
}
_KNOWN = {
    "input_size",
    "in_channels",
    "patch_size",
    "hidden_size",
    "depth",
    "num_heads",
    "mlp_ratio",
    "pred_sigma",
    "caption_channels",
    "model_max_length",
    "space_scale",
    "time_scale",
    "temp_extra_in_channels",
    "temp_extra_in_all_block",
    "max_tpe_len",
    "relative_tpe_mode",
    "spatial_attn_enhance",
    "cross_frame_attn",
    "is_causal",
}


def with_latent_size(arguments: Mapping[str, Any], latent_size: tuple[int, int]) -> dict[str, Any]:
    """Return the arguments with another height and width of a latent frame.

    Raises:
        ExportError: The arguments' patch size is out of range.
        ValueError: The size does not fit the patch size.
    """
    misfit = find_size_misfit(latent_size, _patch_size(arguments))
    if misfit is not None:
        raise ValueError(f"latent_size={latent_size[0]}x{latent_size[1]} {misfit}")
    return {**arguments, "input_size": [1, *latent_size]}


def config_from_arguments(arguments: Mapping[str, Any]) -> TransformerConfig:
    """Convert the reference's constructor arguments.

    Raises:
        ExportError: An argument is unknown, missing, of the wrong kind or out of range.
    """
    unknown = sorted(str(name) for name in set(arguments) - _KNOWN - _WITHOUT_EFFECT)
    if unknown:
        raise ExportError(f"unknown argument {unknown[0]!r}; known are {', '.join(sorted(_KNOWN))}")
    preset = PRESETS.get(str(arguments.get("type")), {})
    merged = {**(_PRESET_DEFAULTS if preset else {}), **preset, **arguments}
    if _flag(merged, "temp_extra_in_all_block", False):
        raise ExportError("temp_extra_in_all_block must be false; a mask channel in every block is not supported")
    try:
        return _translate(merged)
    except KeyError as error:
        raise ExportError(f"argument {error.args[0]!r} is missing, and no preset supplies it") from error


def _translate(arguments: Mapping[str, Any]) -> TransformerConfig:
    context, context_frames = _context(arguments)
    *_, height, width = _numbers(arguments, "input_size", 2)
    values: dict[str, Any] = dict(
        latent_size=(height, width),
        latent_channels=_number(arguments, "in_channels", int, 4),
        patch_size=_patch_size(arguments),
        hidden_size=_number(arguments, "hidden_size", int),
        depth=_number(arguments, "depth", int),
        heads=_number(arguments, "num_heads", int),
        mlp_ratio=_number(arguments, "mlp_ratio", float, 4.0),
        learned_variance=_flag(arguments, "pred_sigma", True),
        text_width=_number(arguments, "caption_channels", int, 0),
        text_tokens=_number(arguments, "model_max_length", int, 120),
        space_scale=_number(arguments, "space_scale", float, 1.0),
        time_scale=_number(arguments, "time_scale", float, 1.0),
        mask_channel=_mask_channel(arguments),
        positions=_positions(arguments.get("relative_tpe_mode")),
        position_count=_number(arguments, "max_tpe_len", int),
        context=context,
        context_frames=context_frames,
        chunk_causal=_chunk_causal(arguments.get("is_causal", True)),
    )
    check_values(values, _SPELLINGS)
    return TransformerConfig(**values)


_N = TypeVar("_N", int, float)


def _number(arguments: Mapping[str, Any], name: str, kind: type[_N], default: _N | None = None) -> _N:
    """Return an argument as a number; an absent or null one is the default, if there is one."""
    value = arguments[name] if default is None else arguments.get(name)
    if value is None and default is not None:
        return default
    whole = " whole" if kind is int else ""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ExportError(f"{name} must be a{whole} number, got {value!r}")
    if kind(value) != value:
        raise ExportError(f"{name} must be a{whole} number, got {value!r}")
    return kind(value)


def _numbers(arguments: Mapping[str, Any], name: str, least: int) -> list[int]:
    value = arguments[name]
    if not isinstance(value, (list, tuple)) or len(value) < least:
        raise ExportError(f"{name} must be a list of at least {least} numbers, got {value!r}")
    return [_number({name: side}, name, int) for side in value]


def _flag(arguments: Mapping[str, Any], name: str, default: bool) -> bool:
    value = arguments.get(name, default)
    if not isinstance(value, bool):
        raise ExportError(f"{name} must be true or false, got {value!r}")
    return value


def _patch_size(arguments: Mapping[str, Any]) -> int:
    sides = _numbers({"patch_size": (1, 2, 2), **arguments}, "patch_size", 3)
    if len(sides) != 3 or sides[0] != 1 or sides[1] != sides[2]:
        raise ExportError(f"patch_size must be [1, p, p], got {sides}")
    return sides[1]


def _mask_channel(arguments: Mapping[str, Any]) -> bool:
    count = _number(arguments, "temp_extra_in_channels", int, 0)
    if count not in (0, 1):
        raise ExportError(f"temp_extra_in_channels must be 0 or 1, got {count}")
    return count == 1


def _positions(value: Any) -> Positions:
    if value is None:
        return "absolute"
    if value == "cyclic" or value == "rope":
        return "cyclic" if value == "cyclic" else "rope"
    raise ExportError(f"relative_tpe_mode must be 'cyclic', 'rope' or null, got {value!r}")


def _chunk_causal(value: Any) -> bool:
    if value is True or value == "partial":
        return value is True
    raise ExportError(f"is_causal must be true or 'partial', got {value!r}; other models cannot cache K and V")


def _context(arguments: Mapping[str, Any]) -> tuple[Context | None, int]:
    """Read the cross-frame context; ``cross_frame_attn`` is the older spelling."""
    name = arguments.get("spatial_attn_enhance") or arguments.get("cross_frame_attn")
    if name is None:
        return None, 0
    if name == "first_frame":
        return "first", 1
    prefix, _, count = str(name).rpartition("_")
    if prefix in ("prev_frames", "prev_prefix") and count.isdigit() and int(count) >= 1:
        return "previous", int(count)
    raise ExportError(f"spatial_attn_enhance must be 'prev_frames_N', 'first_frame' or null, got {name!r}")
