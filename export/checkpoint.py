"""Loading of checkpoints: without running their code, from all common formats, with a check against the model."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
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

__all__ = [
    "SETS",
    "Checkpoint",
    "check_fit",
    "finite_weight",
    "load_model",
    "plain_name",
    "read_checkpoint",
    "read_file",
]

# Names that trainers give to sets of weights, preferred first.
SETS = ("generator_ema", "generator", "ema", "state_dict", "model", "module")
_PREFIXES = ("module.", "model.", "_orig_mod.")
# FSDP inserts it after the name of every module that it wraps.
_FSDP = "_fsdp_wrapped_module."
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
    check_fit(wanted, weights, path)
    converted = sum(4 * tensor.numel() for tensor in weights.values() if tensor.dtype != torch.float32)
    model = build_within_memory(lambda: family.build(config), config.describe(), besides_nbytes=converted)
    for name in list(weights):
        weights[name] = finite_weight(name, weights[name], path)
    model.load_state_dict(weights, strict=False)
    return model.eval().requires_grad_(False)


def read_checkpoint(path: Path, *, weights: str | None = None, preferred: Sequence[str] = SETS) -> Checkpoint:
    """Map the tensors of a checkpoint; their values are read when they are used.

    Args:
        path: A ``.safetensors`` file, a ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` file (read with ``weights_only``), an
            ``*.index.json`` of a sharded checkpoint, or a folder of any of these.
        weights: Name of the set to use, if a file has several. None uses the first of ``preferred`` that it has.
        preferred: Names that sets are known by.

    Raises:
        CheckpointError: The file is missing, not a checkpoint, truncated, would run code when unpickled, or lacks
            ``weights``.
    """
    tensors: dict[str, Tensor] = {}
    chosen, sets = weights, dict[str, None]()
    for file in checkpoint_files(path):
        loaded = read_file(file)
        here = {name: value for name, value in _mappings(loaded) if _holds_tensors(value, preferred)}
        name = _choose(here, weights, file, preferred)
        tensors.update(_plain(loaded if name is None else here[name], file, here, preferred))
        chosen, sets = chosen or name, sets | dict.fromkeys(here)
    return Checkpoint(path, tensors, chosen, tuple(sets))


def plain_name(name: str) -> str:
    """Return a parameter's name without the parts that FSDP inserts."""
    return name.replace(_FSDP, "")


def read_file(path: Path) -> Mapping[Any, Any]:
    """Map the content of one file, without running its code.

    Raises:
        CheckpointError: The file is damaged, contains more than tensors and plain data, or is not a mapping.
    """
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


def _holds_tensors(loaded: Mapping[Any, Any], preferred: Sequence[str]) -> bool:
    """Whether a mapping contains named tensors, directly or in a nested set."""
    own = any(isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items())
    return own or any(name in preferred and _holds_tensors(value, preferred) for name, value in _mappings(loaded))


def _choose(sets: Mapping[str, Any], weights: str | None, path: Path, preferred: Sequence[str]) -> str | None:
    """Return the name of the set to use, or None for tensors without a set."""
    if weights is None:
        return next((name for name in preferred if name in sets), None)
    if weights not in sets:
        found = f"it has {', '.join(sets)}" if sets else "it has one unnamed set, which is the default"
        raise CheckpointError(f"{path}: has no weights named {weights!r}; {found}")
    return weights


def _plain(
    loaded: Mapping[Any, Any], path: Path, sets: Mapping[str, Any], preferred: Sequence[str]
) -> dict[str, Tensor]:
    """Unwrap nested sets and strip prefixes."""
    for name in preferred:
        if isinstance(loaded.get(name), Mapping) and _holds_tensors(loaded[name], preferred):
            return _plain(loaded[name], path, sets, preferred)
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors and sets:
        raise CheckpointError(f"{path}: has weights named {', '.join(sets)}; choose with weights={next(iter(sets))!r}")
    if not tensors:
        raise CheckpointError(
            f"{path}: contains no tensors; found {', '.join(map(repr, list(loaded)[:_LISTED])) or 'nothing'}"
        )
    return _stripped(tensors, path)


def _stripped(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    plain = dict[str, Tensor]()
    for name, tensor in tensors.items():
        if plain_name(name) in plain:
            raise CheckpointError(f"{path}: contains '{plain_name(name)}' twice, with and without '{_FSDP}'")
        plain[plain_name(name)] = tensor
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in plain):
            return _stripped({name.removeprefix(prefix): tensor for name, tensor in plain.items()}, path)
    return plain


def check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Compare names and shapes of a checkpoint's weights with those of a model.

    Raises:
        CheckpointError: Weights are missing, unexpected or misshapen.
    """
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


def finite_weight(name: str, tensor: Tensor, path: Path) -> Tensor:
    """Return a weight as float32.

    Raises:
        CheckpointError: It is not of floating point, or contains NaN or Inf.
    """
    if not tensor.is_floating_point():
        raise CheckpointError(f"{path}: '{name}' is {tensor.dtype}, wanted floating point")
    tensor = tensor.float()
    if not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(f"{path}: '{name}' contains NaN or Inf; its training has diverged")
    return tensor
