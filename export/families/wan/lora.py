"""LoRA files in PEFT's names, and their merge into the weights of Linear layers."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ....errors import CheckpointError, ExportError
from ....hosts import require_memory
from ...checkpoint import finite_weight, plain_name, read_file
from ...checkpoint_files import checkpoint_files
from .checkpoint_names import original_names

__all__ = ["Lora", "LoraLayer", "merge_lora", "read_lora"]

_SET = "generator_lora"
# What wraps the transformer in PEFT, in the authors' code and in diffusers.
_PREFIXES = ("base_model.model.", "model.", "transformer.", "diffusion_model.")
# PEFT inserts the adapter's name where it saves the module instead of the adapter.
_ENTRY = re.compile(r"(?P<layer>.+)\.(?:(?P<matrix>lora_[AB])(?:\.(?P<adapter>[^.]+))?\.weight|alpha)")
_PARTS = {"lora_A": "down", "lora_B": "up", None: "alpha"}
# Where PEFT saves an adapter's configuration, and where diffusers does: in the file's header.
_ADAPTER_STEM, _ADAPTER_CONFIG = "adapter_model", "adapter_config.json"
_HEADER, _HEADER_PREFIX = "lora_adapter_metadata", "transformer."
# Options of PEFT under which the weights mean something else.
_UNSUPPORTED = ("use_dora", "fan_in_fan_out", "layer_replication")
_LISTED = 5

_log = logging.getLogger("vdmrt")


@dataclass(frozen=True)
class LoraLayer:
    """The update of one Linear layer.

    Attributes:
        weight: Name of its weight in the original code.
        down: A, [rank, columns of the weight].
        up: B, [rows of the weight, rank].
        factor: alpha / rank, by which B @ A is multiplied.
    """

    weight: str
    down: Tensor
    up: Tensor
    factor: float


@dataclass(frozen=True)
class Lora:
    """A LoRA, mapped from its files and not yet read.

    Attributes:
        path: The file or folder.
        layers: The updates, at least one.
    """

    path: Path
    layers: tuple[LoraLayer, ...]


@dataclass
class _Pair:
    """What a file has about one layer, under the file's name of it."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None


def read_lora(path: Path) -> Lora:
    """Map a LoRA in PEFT's names, of the original code or of diffusers.

    Alpha is the file's, else that of ``adapter_config.json`` beside ``adapter_model.*`` or of the header that diffusers
    writes, else the rank.

    Args:
        path: A file with the tensors, alone or as ``generator_lora``; or PEFT's folder of an adapter.

    Raises:
        CheckpointError: The LoRA cannot be read, is incomplete, or contains what cannot be merged.
    """
    files = checkpoint_files(path)
    pairs = _read_pairs(files, path)
    config = _read_config(path, files[0])
    unsupported = [f"{option} = {config[option]!r}" for option in _UNSUPPORTED if config.get(option)]
    if unsupported:
        raise CheckpointError(f"{path}: its configuration has {unsupported[0]}, which cannot be merged")
    if "lora_alpha" not in config and any(pair.alpha is None for pair in pairs.values()):
        _log.info("%s: has no alpha; using the rank, that is a factor of 1", path)
    layers = {f"{layer}.weight": _finish(layer, pair, config, path) for layer, pair in pairs.items()}
    return Lora(path, tuple(LoraLayer(name, *parts) for name, parts in original_names(layers).items()))


def merge_lora(tensors: Mapping[str, Tensor], lora: Lora, *, scale: float = 1.0) -> dict[str, Tensor]:
    """Return weights of which those of the LoRA's layers are W + scale * alpha / rank * B @ A.

    Args:
        tensors: Weights by the original code's names; they stay as they are.
        lora: The LoRA. All its layers are checked before any is merged.
        scale: Factor besides alpha / rank.

    Returns:
        All weights; those that are merged are float32.

    Raises:
        CheckpointError: A layer does not exist or has another shape; or a weight or the LoRA contains NaN or Inf.
        ExportError: The merged weights need more memory than is available.
        ValueError: ``scale`` is not finite.
    """
    if not math.isfinite(scale):
        raise ValueError(f"the LoRA's scale must be finite, got {scale}")
    _check_targets(tensors, lora)
    nbytes = sum(4 * tensors[layer.weight].numel() for layer in lora.layers)
    require_memory(nbytes, "merging the LoRA", "export on a machine with more memory", fail=ExportError)
    merged = dict(tensors)
    for layer in lora.layers:
        down, up = (finite_weight(f"LoRA of {layer.weight}", part, lora.path) for part in (layer.down, layer.up))
        weight = finite_weight(layer.weight, tensors[layer.weight], lora.path)
        merged[layer.weight] = weight + scale * layer.factor * (up @ down)
    factors = ", ".join(f"{scale * factor:g}" for factor in sorted({layer.factor for layer in lora.layers}))
    _log.info("%s: merged into %d layers, multiplied by %s", lora.path, len(lora.layers), factors)
    return merged


def _read_pairs(files: Iterable[Path], path: Path) -> dict[str, _Pair]:
    """Return what the files have about each layer."""
    pairs, adapters = dict[str, _Pair](), set[str]()
    for file in files:
        for name, value in _entries(file).items():
            _sort_in(name, value, pairs, adapters, file)
    if not pairs:
        raise CheckpointError(f"{path}: wanted a LoRA with names such as 'blocks.0.ffn.0.lora_A.weight', found none")
    if len(adapters) > 1:
        raise CheckpointError(f"{path}: has several adapters, {', '.join(sorted(adapters))}; save one in its own file")
    return pairs


def _entries(path: Path) -> Mapping[str, Any]:
    """Return all entries of a file, without prefixes."""
    loaded = read_file(path)
    if isinstance(loaded.get(_SET), Mapping):
        loaded = loaded[_SET]
    sets = [str(name) for name, value in loaded.items() if isinstance(value, Mapping)]
    if sets:
        raise CheckpointError(f"{path}: wanted tensors, alone or as {_SET!r}; found sets named {', '.join(sets)}")
    entries = {plain_name(str(name)): value for name, value in loaded.items()}
    if len(entries) < len(loaded):
        raise CheckpointError(f"{path}: contains weights twice, with and without the names that FSDP inserts")
    for prefix in _PREFIXES:
        if entries and all(name.startswith(prefix) for name in entries):
            entries = {name.removeprefix(prefix): value for name, value in entries.items()}
    return entries


def _sort_in(name: str, value: Any, pairs: dict[str, _Pair], adapters: set[str], path: Path) -> None:
    entry = _ENTRY.fullmatch(name)
    if entry is None or not isinstance(value, (Tensor, int, float)):
        raise CheckpointError(
            f"{path}: '{name}' cannot be merged; wanted nothing but lora_A, lora_B and alpha of Linear layers"
        )
    pair, part = pairs.setdefault(entry["layer"], _Pair()), _PARTS[entry["matrix"]]
    if getattr(pair, part) is not None:
        raise CheckpointError(f"{path}: '{name}' is there twice; save one adapter in its own file")
    if part == "alpha":
        pair.alpha = _number(value, name, path)
        return
    adapters.add(entry["adapter"] or "one without a name")
    shape = list(value.shape) if isinstance(value, Tensor) else []
    if len(shape) != 2:
        raise CheckpointError(f"{path}: '{name}' has the shape {shape}, wanted two axes, as of a Linear layer")
    setattr(pair, part, value)


def _finish(layer: str, pair: _Pair, config: Mapping[str, Any], path: Path) -> tuple[Tensor, Tensor, float]:
    """Return A, B and alpha / rank."""
    down, up = pair.down, pair.up
    if down is None or up is None:
        raise CheckpointError(f"{path}: '{layer}' lacks {'lora_A' if down is None else 'lora_B'}; save the LoRA whole")
    rank = down.shape[0]
    if rank == 0 or up.shape[1] != rank:
        raise CheckpointError(
            f"{path}: '{layer}' has lora_A {list(down.shape)} and lora_B {list(up.shape)}, which have no rank in common"
        )
    alpha = _config_alpha(layer, config, path) if pair.alpha is None else pair.alpha
    if alpha is None:
        return down, up, 1.0
    return down, up, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _config_alpha(layer: str, config: Mapping[str, Any], path: Path) -> float | None:
    """Return a layer's alpha as PEFT does: the first pattern that the end of its name matches, else the common one."""
    patterns = config.get("alpha_pattern") or {}
    try:
        alphas = [alpha for pattern, alpha in patterns.items() if re.fullmatch(rf"(.*\.)?({pattern})", layer)]
    except (AttributeError, re.error) as error:
        raise CheckpointError(
            f"{path}: alpha_pattern is {patterns!r}, wanted patterns of names with numbers"
        ) from error
    alpha = alphas[0] if alphas else config.get("lora_alpha")
    return None if alpha is None else _number(alpha, f"alpha of '{layer}'", path)


def _number(value: Any, name: str, path: Path) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise CheckpointError(f"{path}: {name} is {value!r}, wanted a finite number")
    return float(value)


def _read_config(path: Path, file: Path) -> Mapping[str, Any]:
    """Return PEFT's configuration of an adapter, or nothing."""
    beside = file.parent / _ADAPTER_CONFIG
    if beside.is_file() and (path.is_dir() or path.stem == _ADAPTER_STEM):
        return _parse_config(beside.read_bytes(), beside)
    opened: Any = safe_open(file, "pt") if file.suffix == ".safetensors" else None
    header = (opened and opened.metadata()) or {}
    if _HEADER not in header:
        return {}
    config = _parse_config(header[_HEADER], file)
    return {name.removeprefix(_HEADER_PREFIX): value for name, value in config.items()}


def _parse_config(text: str | bytes, file: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{file}: the LoRA's configuration is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: wanted the LoRA's configuration, found {type(config).__name__}")
    return config


def _check_targets(tensors: Mapping[str, Tensor], lora: Lora) -> None:
    unknown = [layer.weight for layer in lora.layers if layer.weight not in tensors]
    if unknown:
        raise CheckpointError(
            f"{lora.path}: {len(unknown)} of {len(lora.layers)} layers are not in the checkpoint ({_listed(unknown)}); "
            "give the LoRA of this model"
        )
    for layer in lora.layers:
        shape, wanted = [layer.up.shape[0], layer.down.shape[1]], list(tensors[layer.weight].shape)
        if shape != wanted:
            raise CheckpointError(f"{lora.path}: B @ A for '{layer.weight}' is {shape}, the weight {wanted}")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
