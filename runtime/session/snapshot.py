"""Snapshots: the whole state of a session, saved as a safetensors file with a JSON header."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle import Role, format_count, replaced_file
from ...errors import SessionError
from .session_settings import SessionSettings

if TYPE_CHECKING:
    from ...bundle import Geometry, Graph
    from ..device.arrays import Array

__all__ = ["Snapshot", "SnapshotForm", "read_snapshot"]

_SCHEMA = 2  # 1 had no checksum
# Keys of safetensors' metadata: the header as JSON, and the SHA-256 of header and tensors.
_KEY, _CHECKSUM = "vdmrt_snapshot", "vdmrt_sha256"
_MAX_WRITTEN = 2**48  # latent frames that the noise can be keyed by


@dataclass(frozen=True)
class SnapshotForm:
    """The properties of a snapshot that a model can restore.

    Attributes:
        precision: Precision of the graphs.
        graphs_sha256: Hash of the graphs and their weights.
        tensors: Dtype and shape of each tensor by name.
        slots: Slots of the ring.
        sinks: Pinned latent frames of the ring.
    """

    precision: str
    graphs_sha256: str
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]
    slots: int
    sinks: int

    @classmethod
    def of(cls, geometry: Geometry, fill: Graph, precision: str, graphs_sha256: str) -> SnapshotForm:
        """Derive the form from the sizes and the fill graph of a bundle."""
        g, rows = geometry, geometry.rows_per_request
        tensors: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            "cache": (_stored(fill, Role.PRESENT_KEY), (g.layers, 2, *g.cache_shape(rows, g.slots)))
        }
        if g.context is not None:
            columns = g.context_frames * g.tokens_per_frame
            shape = (g.layers, 2, rows, g.heads, columns, g.head_size)
            tensors["context"] = (_stored(fill, Role.CONTEXT_KEY), shape)
        for spec in fill.with_role(Role.TEXT, Role.TEXT_MASK):
            tensors[str(spec.role)] = (np.dtype(spec.storage), (rows, *spec.shape[1:]))
        return cls(precision, graphs_sha256, tensors, g.slots, g.policy.sinks)


@dataclass(frozen=True, repr=False)
class Snapshot:
    """The state of a session, from :meth:`Session.snapshot`, for :meth:`Model.restore`.

    Attributes:
        precision: Precision of the graphs.
        graphs_sha256: Hash of the graphs and their weights.
        written: Latent frames written to the cache so far.
        chunks: Chunks generated so far.
        settings: Settings of the session.
        tensors: "cache" and, if the model has them, "context" and, by role, text and its mask.
        sinks: Latent frames that the cache pins.
    """

    precision: str
    graphs_sha256: str
    written: int
    chunks: int
    settings: SessionSettings
    tensors: Mapping[str, Array]
    sinks: int = 0

    def __repr__(self) -> str:
        nbytes = sum(tensor.nbytes for tensor in self.tensors.values())
        return (
            f"Snapshot(precision={self.precision!r}, seed={self.settings.seed}, written={self.written}, "
            f"chunks={self.chunks}, tensors={nbytes} bytes)"
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Save the snapshot, with a checksum of its content, as a file for :meth:`Model.restore`.

        An existing regular file is replaced atomically; a symbolic link is kept and its target replaced.

        Raises:
            SessionError: The file cannot be written, or the path is not a regular file.
        """
        from safetensors.numpy import save  # only where snapshots are written

        fields = {"schema": _SCHEMA, **{field: getattr(self, field) for field in _HEADER}}
        header = json.dumps({**fields, "settings": dataclasses.asdict(self.settings)})
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in self.tensors.items()}
        with replaced_file(path, fail=SessionError) as file:
            file.write(save(tensors, metadata={_KEY: header, _CHECKSUM: _checksum(header, tensors)}))
        return Path(path)

    def check(self, form: SnapshotForm, source: str) -> None:
        """Compare the snapshot with the form that a model can restore.

        Raises:
            SessionError: Bundle, precision or a tensor differs, or a number is out of range.
        """
        _check_origin(vars(self), form, source)
        _check_tensors({name: (one.dtype, one.shape) for name, one in self.tensors.items()}, form, source)
        for name, tensor in self.tensors.items():
            if not _is_finite(tensor):
                raise SessionError(f"{source}: '{name}' contains NaN or Inf; take the snapshot again")


def _stored(fill: Graph, role: Role) -> np.dtype[Any]:
    return np.dtype(fill.tensor(role, layer=0).storage)


def _is_finite(tensor: Array) -> bool:
    if tensor.dtype == np.uint8:  # E4M3 has no Inf; in its NaN all bits but the sign are set
        return not bool((tensor & 0x7F == 0x7F).any())
    return tensor.dtype.kind != "f" or bool(np.isfinite(tensor).all())


def _checksum(header: str, tensors: Mapping[str, Array]) -> str:
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype.str} {list(tensor.shape)}\n".encode())
        digest.update(tensor.data)
    return digest.hexdigest()


_HEADER = ("precision", "graphs_sha256", "written", "chunks", "sinks")


def read_snapshot(path: str | os.PathLike[str], form: SnapshotForm) -> Snapshot:
    """Load a snapshot; check header and sizes before reading any tensor, and the checksum afterwards.

    Raises:
        SessionError: The file is missing, truncated or not a snapshot, or does not fit the model.
    """
    from safetensors import SafetensorError, safe_open  # only where snapshots are read

    source = str(path)
    if os.path.exists(path) and not os.path.isfile(path):
        raise SessionError(f"{source}: wanted a snapshot, found something that is not a regular file")
    try:
        with safe_open(source, framework="np") as file:
            metadata = file.metadata() or {}
            header = _read_header(metadata, source)
            _check_origin(header, form, source)
            _check_tensors(_listed(file), form, source)
            tensors = {name: file.get_tensor(name) for name in form.tensors}
    except FileNotFoundError as error:
        raise SessionError(f"{source}: the snapshot does not exist") from error
    except (SafetensorError, OSError) as error:
        raise SessionError(
            f"{source}: wanted a snapshot, found a truncated or other file ({error}); take it again with "
            "session.snapshot().save()"
        ) from error
    _check_checksum(metadata, tensors, source)
    settings = SessionSettings(**header.pop("settings"))
    return Snapshot(settings=settings, tensors=tensors, **{field: header[field] for field in _HEADER})


def _listed(file: Any) -> dict[str, tuple[np.dtype[Any] | str, tuple[int, ...]]]:
    names: dict[str, np.dtype[Any]] = {
        "F32": np.dtype(np.float32),
        "F16": np.dtype(np.float16),
        "I8": np.dtype(np.int8),
        "U8": np.dtype(np.uint8),
    }
    found: dict[str, tuple[np.dtype[Any] | str, tuple[int, ...]]] = {}
    for name in file.keys():
        piece = file.get_slice(name)
        dtype = str(piece.get_dtype())
        found[name] = (names.get(dtype, dtype), tuple(piece.get_shape()))
    return found


def _check_checksum(metadata: Mapping[str, str], tensors: Mapping[str, Array], source: str) -> None:
    found, wanted = _checksum(metadata[_KEY], tensors), metadata.get(_CHECKSUM, "none")
    if found != wanted:
        raise SessionError(
            f"{source}: the recorded checksum is {wanted[:12]}, that of the content is {found[:12]}: the file was "
            "altered or damaged; take the snapshot again (to continue with another seed, use "
            "model.restore(snapshot, seed=...))"
        )


def _read_header(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(metadata[_KEY])
    except (KeyError, ValueError) as error:
        raise SessionError(f"{source}: wanted a snapshot, found safetensors without its header") from error
    found = header.get("schema") if isinstance(header, dict) else None
    if found != _SCHEMA:
        raise SessionError(
            f"{source}: wanted a snapshot of schema {_SCHEMA}, which has a checksum, found {found!r}; take it again"
        )
    header.setdefault("sinks", 0)  # absent in files written before sinks existed
    for path, fits in _FIELDS.items():
        value: Any = header
        for key in path.split("."):
            value = value.get(key, ...) if isinstance(value, dict) else ...
        if not fits(value):
            shown = "no value" if value is ... else repr(value)
            raise SessionError(f"{source}: the header has {shown} for {path}; take the snapshot again")
    if header["settings"].keys() != {field.name for field in dataclasses.fields(SessionSettings)}:
        raise SessionError(f"{source}: the header has settings of another version; take the snapshot again")
    return header


def _is_count(value: Any, end: int) -> bool:
    return type(value) is int and 0 <= value < end


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_FIELDS = {
    "precision": lambda value: isinstance(value, str),
    "graphs_sha256": lambda value: isinstance(value, str),
    "written": lambda value: _is_count(value, _MAX_WRITTEN) and value > 0,
    "chunks": lambda value: _is_count(value, _MAX_WRITTEN),
    "sinks": lambda value: _is_count(value, 2**31),
    "settings.seed": lambda value: _is_count(value, 2**64),
    "settings.sampler": lambda value: isinstance(value, str),
    "settings.steps": lambda value: _is_count(value, 2**31),
    "settings.guidance": lambda value: value is None or _is_number(value),
    "settings.prefix_noise": lambda value: value is None or _is_count(value, 2**31),
    "settings.eta": _is_number,
    "settings.shift": _is_number,
}


def _check_origin(header: Mapping[str, Any], form: SnapshotForm, source: str) -> None:
    precision, graphs_sha256, sinks = (header[name] for name in ("precision", "graphs_sha256", "sinks"))
    if precision != form.precision:
        raise SessionError(
            f"{source}: was taken at precision {precision!r}, and this model runs {form.precision!r}; "
            f"load the bundle with precision={precision!r}"
        )
    if graphs_sha256 != form.graphs_sha256:
        raise SessionError(
            f"{source}: was taken from graphs {graphs_sha256[:12]}, and this model's are {form.graphs_sha256[:12]}; "
            "load the bundle that it was taken from"
        )
    if sinks != form.sinks:
        raise SessionError(
            f"{source}: the cache pins {format_count(sinks, 'latent frame')}, and this model pins {form.sinks}; "
            "load the bundle that it was taken from"
        )


def _check_tensors(
    found: Mapping[str, tuple[np.dtype[Any] | str, tuple[int, ...]]], form: SnapshotForm, source: str
) -> None:
    for name in sorted(found.keys() | form.tensors.keys()):
        have, want = found.get(name), form.tensors.get(name)
        if have != want:
            raise SessionError(
                f"{source}: wanted '{name}' as {_describe(want)}, found {_describe(have)}; take the snapshot again"
            )


def _describe(tensor: tuple[Any, tuple[int, ...]] | None) -> str:
    return "nothing" if tensor is None else f"{tensor[0]} {list(tensor[1])}"
