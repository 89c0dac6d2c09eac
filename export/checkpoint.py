"""Loading of checkpoints: without running their code, from all common formats, with a check against the model."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import CheckpointError
from .checkpoint_files import checkpoint_files
from .families import find_family
from .memory import build_within_memory

if TYPE_CHECKING:
    from .families.family import Architecture

__all__ = ["Checkpoint", "load_model", "read_checkpoint"]

# Names that trainers give to sets of weights, preferred first.
_SETS = ("ema", "state_dict", "model", "module")
_PREFIXES = ("module.", "model.", "_orig_mod.")
_LISTED = 5


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights of a checkpoint, mapped from its files and not yet read.

    Attributes:
        path: The file or folder.
        tensors: The weights by their plain names.
        weights: The set's name, as "ema"; None if the checkpoint has one unnamed set.
        sets: Names of all sets in the checkpoint.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    weights: str | None
    sets: tuple[str, ...]


def load_model(config: Architecture, checkpoint: Path | Checkpoint) -> Any:
    """Build the module with a checkpoint's weights, float32.

    The checkpoint's names and shapes are compared with the configuration before anything is allocated or read.

    Args:
        config: The architecture.
        checkpoint: Its path, or the result of :func:`read_checkpoint`.

    Raises:
        CheckpointError: The checkpoint cannot be read, contains NaN or Inf, or is of another model.
        ExportError: The model needs more memory than is available.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    path = checkpoint.path
    family = find_family(config.family)
    weights = family.select_weights(checkpoint.tensors)
    with torch.device("meta"):
        wanted = family.select_weights(family.build(config).state_dict())
    _check_fit(wanted, weights, path)
    converted = sum(4 * tensor.numel() for tensor in weights.values() if tensor.dtype != torch.float32)
    model = build_within_memory(lambda: family.build(config), config.describe(), besides_nbytes=converted)
    for name in list(weights):
        weights[name] = _finite(name, weights[name], path)
    model.load_state_dict(weights, strict=False)
    return model.eval().requires_grad_(False)


def read_checkpoint(path: Path, *, weights: str | None = None) -> Checkpoint:
    """Map the tensors of a checkpoint; their values are read when they are used.

    Args:
        path: A ``.safetensors`` file, a ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` file (read with ``weights_only``), an
            ``*.index.json`` of a sharded checkpoint, or a folder of any of these.
        weights: Name of the set to use, if a file has several. None prefers ``ema``, then ``state_dict``, ``model`` and
            ``module``.

    Raises:
        CheckpointError: The file is missing, not a checkpoint, truncated, would run code when unpickled, or lacks
            ``weights``.
    """
    tensors: dict[str, Tensor] = {}
    chosen, sets = weights, dict[str, None]()
    for file in checkpoint_files(path):
        loaded = _read_file(file)
        here = {name: value for name, value in _mappings(loaded) if _holds_tensors(value)}
        name = _choose(here, weights, file)
        tensors.update(_plain(loaded if name is None else here[name], file, here))
        chosen, sets = chosen or name, sets | dict.fromkeys(here)
    return Checkpoint(path, tensors, chosen, tuple(sets))


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown pickle protocols, which fail anyway
            # Files of torch before 1.6 are not archives and cannot be mapped.
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: is damaged, or contains more than tensors and would run code when loaded; "
            "save its state_dict as .safetensors"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: is truncated or not a checkpoint: {reason}") from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: wanted a mapping of names to tensors, found {type(loaded).__name__}")
    return loaded


def _mappings(loaded: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for name, value in loaded.items():
        if isinstance(name, str) and isinstance(value, Mapping):
            yield name, value


def _holds_tensors(loaded: Mapping[Any, Any]) -> bool:
    """Whether a mapping contains named tensors, directly or in a nested set."""
    own = any(isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items())
    return own or any(name in _SETS and _holds_tensors(value) for name, value in _mappings(loaded))


def _choose(sets: Mapping[str, Any], weights: str | None, path: Path) -> str | None:
    """Return the name of the set to use, or None for tensors without a set."""
    if weights is None:
        return next((name for name in _SETS if name in sets), None)
    if weights not in sets:
        found = f"it has {', '.join(sets)}" if sets else "it has one unnamed set, which is the default"
        raise CheckpointError(f"{path}: has no weights named {weights!r}; {found}")
    return weights


def _plain(loaded: Mapping[Any, Any], path: Path, sets: Mapping[str, Any]) -> dict[str, Tensor]:
    """Unwrap nested sets and strip prefixes."""
    for name in _SETS:
        if isinstance(loaded.get(name), Mapping) and _holds_tensors(loaded[name]):
            return _plain(loaded[name], path, sets)
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors and sets:
        raise CheckpointError(f"{path}: has weights named {', '.join(sets)}; choose with weights={next(iter(sets))!r}")
    if not tensors:
        raise CheckpointError(
            f"{path}: contains no tensors; found {', '.join(map(repr, list(loaded)[:_LISTED])) or 'nothing'}"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return _plain({name.removeprefix(prefix): value for name, value in tensors.items()}, path, sets)
    return tensors


def _check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    missing = tuple(name for name in wanted if name not in found)
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
        raise CheckpointError(f"{path}: '{name}' contains NaN or Inf; its training has diverged")
    return tensor
