"""Loading a checkpoint: safely, from whatever shape it was saved in, and only if it fits the model."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..bundle import sha256_of
from ..errors import CheckpointError
from .config import TransformerConfig
from .transformer import CausalTransformer

__all__ = ["checkpoint_sha256", "load_model", "read_checkpoint"]

# Buffers are rebuilt from the configuration: an older checkpoint may hold them for another latent size.
_REBUILT = frozenset(
    {
        "pos_embed",
        "pos_embed_temporal",
        "bov_token",
        "rope",
        "freqs_cis",
        "cache_kv",
        "cache_indicator",
        "spatial_ctx_kv",
    }
)
# What trainers nest weights under, the one to prefer first.
_NESTS = ("ema", "state_dict", "model", "module")
_PREFIXES = ("module.", "model.", "_orig_mod.")
_TORCH_SUFFIXES = frozenset({".pth", ".pt", ".bin", ".ckpt"})
_LISTED = 5


def load_model(config: TransformerConfig, checkpoint: Path) -> CausalTransformer:
    """Build the transformer with a checkpoint's weights, float32.

    Args:
        config: The architecture.
        checkpoint: What :func:`read_checkpoint` takes.

    Raises:
        CheckpointError: The checkpoint cannot be read, holds NaN or Inf, or is of another model.
    """
    model = CausalTransformer(config)
    weights = {
        name: tensor for name, tensor in read_checkpoint(checkpoint).items() if name.split(".")[-1] not in _REBUILT
    }
    _check_fit(model.state_dict(), weights, checkpoint)
    for name in list(weights):
        weights[name] = _finite(name, weights[name], checkpoint)
    model.load_state_dict(weights, strict=False)
    return model.eval().requires_grad_(False)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by their plain names.

    Args:
        path: A ``.safetensors`` file, a ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` file (read with ``weights_only``), an
            ``*.index.json`` of a sharded checkpoint, or a folder of any of these. Weights may be nested (``ema`` is
            preferred, then ``state_dict``, ``model``, ``module``) and prefixed.

    Raises:
        CheckpointError: The file is missing, foreign, truncated, or would need unpickling of code.
    """
    tensors: dict[str, Tensor] = {}
    for file in checkpoint_files(path):
        tensors.update(_plain(_read_file(file), file))
    return tensors


def checkpoint_files(path: Path) -> list[Path]:
    """Return the files that a checkpoint consists of.

    Raises:
        CheckpointError: There is none.
    """
    if path.name.endswith(".index.json"):
        return _shards(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint; wanted a file or a folder with .safetensors or .pth")
    for pattern in ("*.index.json", "state_dict*.safetensors", "*.safetensors", "*.pth", "*.pt", "*.bin"):
        found = sorted(path.glob(pattern))
        if found:
            return _shards(found[0]) if pattern == "*.index.json" else found
    raise CheckpointError(f"{path}: the folder holds no .safetensors, .pth, .pt, .bin or .index.json file")


def checkpoint_sha256(path: Path) -> str:
    """Return one SHA-256 over all files of a checkpoint."""
    digests = [sha256_of(file) for file in checkpoint_files(path)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except OSError as error:
        raise CheckpointError(f"{index}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index}: wanted JSON with a 'weight_map' from keys to files") from error
    if not names:
        raise CheckpointError(f"{index}: its 'weight_map' is empty; fetch the checkpoint again")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{index}: shard {name!r} lies outside the index's folder")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: shard '{name}' is missing; fetch the checkpoint again")
    return [index.parent / name for name in names]


def _read_file(path: Path) -> Mapping[str, Any]:
    if path.suffix != ".safetensors" and path.suffix not in _TORCH_SUFFIXES:
        raise CheckpointError(f"{path}: wanted .safetensors, .pth, .pt, .bin or .ckpt, found '{path.suffix}'")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle protocol that it may not know: it fails where it does not
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: is damaged, or holds more than tensors and would run code when loaded; "
            "save its state_dict as .safetensors"
        ) from error
    except Exception as error:  # a damaged pickle fails in every way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: is truncated or no checkpoint: {reason}") from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: wanted a mapping of names to tensors, found {type(loaded).__name__}")
    return loaded


def _plain(loaded: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Unwrap nests and prefixes."""
    for nest in _NESTS:
        if isinstance(loaded.get(nest), Mapping):
            return _plain(loaded[nest], path)
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path}: holds no tensors; found {', '.join(map(repr, list(loaded)[:_LISTED])) or 'nothing'}"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _plain({name.removeprefix(prefix): value for name, value in tensors.items()}, path)
    return tensors


def _check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    missing = tuple(name for name in wanted if name not in found and name.split(".")[-1] not in _REBUILT)
    unexpected = tuple(name for name in found if name not in wanted)
    misshapen = tuple(
        (name, tuple(wanted[name].shape), tuple(tensor.shape))
        for name, tensor in found.items()
        if name in wanted and wanted[name].shape != tensor.shape
    )
    if not (missing or unexpected or misshapen):
        return
    shapes = [f"{name} wanted {list(want)}, found {list(have)}" for name, want, have in misshapen]
    parts = [
        f"{len(names)} {what} ({', '.join(names[:_LISTED])}{', …' if len(names) > _LISTED else ''})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", shapes))
        if names
    ]
    raise CheckpointError(
        f"{path}: is not a checkpoint of this model: {'; '.join(parts)}; give the --config it was trained with",
        missing=missing,
        unexpected=unexpected,
        misshapen=misshapen,
    )


def _finite(name: str, tensor: Tensor, path: Path) -> Tensor:
    if not tensor.is_floating_point():
        raise CheckpointError(f"{path}: '{name}' is {tensor.dtype}, wanted floating point")
    tensor = tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{path}: '{name}' holds NaN or Inf; the training that wrote it had diverged")
    return tensor
