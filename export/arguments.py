"""Reading the architecture from the constructor arguments of the reference code: presets, and JSON or YAML files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ExportError
from .families.ca2vdm.config import (
    Context,
    Positions,
    TransformerConfig,
    check_values,
    find_size_misfit,
)

__all__ = ["PRESETS", "config_from_arguments", "load_config", "name_model"]

# DiT's sizes (Peebles & Xie 2023, table 1); Ca2-VDM publishes XL/2.
PRESETS: Mapping[str, Mapping[str, int]] = {
    "CausalSTDiT2-XL/2": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
    "CausalSTDiT2-L/2": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "CausalSTDiT2-B/2": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "CausalSTDiT2-S/2": {"hidden_size": 384, "depth": 12, "num_heads": 6},
}

# What an uncustomised model of the paper has: three context frames, 25 cached + 8 new latent frames.
_PRESET_DEFAULTS: Mapping[str, Any] = {
    "input_size": [8, 32, 32],
    "relative_tpe_mode": "cyclic",
    "max_tpe_len": 33,
    "spatial_attn_enhance": "prev_frames_3",
}

# Attributes that the reference's constructor names otherwise.
_SPELLINGS: Mapping[str, str] = {
    "latent_size": "input_size",
    "latent_channels": "in_channels",
    "heads": "num_heads",
    "text_width": "caption_channels",
    "text_tokens": "model_max_length",
    "position_count": "max_tpe_len",
}

# Constructor arguments of the reference that do not change what is computed when sampling.
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


def load_config(source: str | Path, *, latent_size: tuple[int, int] | None = None) -> TransformerConfig:
    """Read the architecture from a preset's name or from a JSON or YAML file.

    Args:
        source: A name of :data:`PRESETS`, or a file with the reference's constructor arguments, plain or under
            ``model``. A ``type`` that names a preset supplies what the file leaves out.
        latent_size: Height and width of a latent frame instead of the file's.

    Raises:
        ExportError: The file is missing or not JSON or YAML, or an argument is unknown or out of range.
        ValueError: ``latent_size`` does not fit the patch size.
    """
    arguments = {"type": str(source)} if str(source) in PRESETS else _read(Path(source))
    try:
        if latent_size is not None:
            misfit = find_size_misfit(latent_size, _patch_size(arguments))
            if misfit is not None:
                raise ValueError(f"latent_size={latent_size[0]}x{latent_size[1]} {misfit}")
            arguments = {**arguments, "input_size": [1, *latent_size]}
        return config_from_arguments(arguments)
    except ExportError as error:
        raise ExportError(f"{source}: {error}") from error


def name_model(source: str | Path) -> str:
    """Return a name for the model of a configuration: the preset's, or the file's.

    A file that is called only "config", as beside most checkpoints, is named by its folder.
    """
    if str(source) in PRESETS:
        return str(source)
    path = Path(source)
    is_nameless = path.stem.lower() in ("config", "model", "transformer_config", "model_config")
    return (path.resolve().parent.name if is_nameless else "") or path.stem


def config_from_arguments(arguments: Mapping[str, Any]) -> TransformerConfig:
    """Translate the reference's constructor arguments.

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
    """Return an argument as a number; absent or null stands for the default, where there is one."""
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


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        presets = ", ".join(PRESETS)
        raise ExportError(f"{path}: not a readable JSON or YAML file and no preset ({presets}): {error}") from error
    document = _parse(path, text)
    if isinstance(document, dict) and isinstance(document.get("model"), dict):
        document = document["model"]
    if not isinstance(document, dict):
        raise ExportError(f"{path}: wanted a mapping of constructor arguments, found {type(document).__name__}")
    return document


def _parse(path: Path, text: str) -> Any:
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ExportError(f"{path}: not JSON: {error}") from error
    import yaml  # only YAML files need it

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ExportError(f"{path}: neither JSON nor YAML: {str(error).splitlines()[0]}") from error
