"""Files of a checkpoint: finding and hashing them without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ..bundle import sha256_of
from ..errors import CheckpointError

__all__ = ["checkpoint_files", "checkpoint_sha256"]

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def checkpoint_files(path: Path) -> list[Path]:
    """Return the files of a checkpoint.

    Args:
        path: A file, an ``*.index.json`` of a sharded checkpoint, or a folder of either.

    Raises:
        CheckpointError: There is no file, or its format is unknown.
    """
    if path.name.endswith(".index.json"):
        return _shards(path)
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise CheckpointError(f"{path}: wanted .safetensors, .pth, .pt, .bin or .ckpt, found '{path.suffix}'")
        return [path]
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such checkpoint; wanted a file or a folder with .safetensors or .pth")
    for pattern in ("*.index.json", "state_dict*.safetensors", "*.safetensors", "*.pth", "*.pt", "*.bin"):
        found = sorted(path.glob(pattern))
        if found:
            return _shards(found[0]) if pattern == "*.index.json" else found
    raise CheckpointError(f"{path}: the folder has no .safetensors, .pth, .pt, .bin or .index.json file")


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
            raise CheckpointError(f"{index}: shard {name!r} is outside the index's folder")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: shard '{name}' is missing; fetch the checkpoint again")
    return [index.parent / name for name in names]
