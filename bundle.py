"""The bundle on disk: what every stage reads and adds to, typed, versioned, validated and hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from .errors import BundleError

__all__ = [
    "SCHEMA",
    "Artifact",
    "Bundle",
    "CacheCopy",
    "Codec",
    "Geometry",
    "Graph",
    "Manifest",
    "SamplerDefaults",
    "ScheduleSpec",
    "TensorSpec",
    "new_bundle",
    "open_bundle",
    "sha256_of",
]

SCHEMA = 1
Precision = Literal["fp32", "fp16"]
_MANIFEST = "model.json"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: As in the graph.
        dtype: "float32", "float16" or "int32".
        shape: Static.
    """

    name: str
    dtype: Literal["float32", "float16", "int32"]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        count = 2 if self.dtype == "float16" else 4
        for side in self.shape:
            count *= side
        return count


@dataclass(frozen=True)
class Artifact:
    """A file of the bundle: relative path, SHA-256 and length in bytes."""

    file: str
    sha256: str
    nbytes: int


@dataclass(frozen=True)
class CacheCopy:
    """A node that reads ``past_*`` and writes it elsewhere: so many bytes at each run of the graph."""

    node: str
    operator: str
    tensor: str
    nbytes: int


@dataclass(frozen=True)
class Graph:
    """An ONNX graph of the bundle.

    Attributes:
        file: The graph.
        weights: The file its initializers lie in; shared by graphs of one precision. None where they are inside.
        inputs: Tensors it reads.
        outputs: Tensors it writes.
        flops: Floating-point operations of one run: two for each multiply-add of its matrix products.
        nbytes_moved: Bytes of inputs, outputs and weights of one run: what a roofline counts.
        cache_copies: Nodes that copy the cache; empty is the aim.
    """

    file: Artifact
    weights: Artifact | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    flops: int
    nbytes_moved: int
    cache_copies: tuple[CacheCopy, ...] = ()


@dataclass(frozen=True)
class Geometry:
    """Every size of the model and of its graphs; all of them are static.

    Attributes:
        layers: Transformer blocks L.
        heads: Attention heads H.
        head_size: Channels d of a head.
        tokens_per_frame: Tokens S of a latent frame.
        latent_channels: Channels c of the latent.
        latent_height: Height h of the latent.
        latent_width: Width w of the latent.
        chunk_frames: Latent frames T that one autoregressive step makes.
        slots: Capacity K of the KV cache in latent frames.
        requests: Requests R that one run of the denoise graph carries.
        rows_per_request: Transformer rows of a request: 2 with guidance (null and prompt), else 1.
        max_steps: Most denoising steps.
        positions: Kind of temporal positions.
        position_count: Rows of the temporal table.
        context: What the cross-frame attention of a noisy chunk sees; None without it.
        context_frames: P, how many latent frames that are; 0 without it.
        text_tokens: Tokens of a prompt; 0 without text.
        text_width: Width of the text embeddings; 0 without text.
        learned_variance: Whether the model predicts the variance too.
        stochastic: Whether the denoise graph takes noise.
    """

    layers: int
    heads: int
    head_size: int
    tokens_per_frame: int
    latent_channels: int
    latent_height: int
    latent_width: int
    chunk_frames: int
    slots: int
    requests: int
    rows_per_request: int
    max_steps: int
    positions: Literal["cyclic", "rope", "absolute"]
    position_count: int
    context: Literal["previous", "first"] | None
    context_frames: int
    text_tokens: int
    text_width: int
    learned_variance: bool
    stochastic: bool

    def __post_init__(self) -> None:
        optional = ("context_frames", "text_tokens", "text_width")
        for name, value in vars(self).items():
            if isinstance(value, int) and not isinstance(value, bool) and value < (0 if name in optional else 1):
                raise ValueError(f"{name} must be at least {0 if name in optional else 1}, got {value}")
        if self.chunk_frames > self.slots:
            raise ValueError(f"slots must be at least chunk_frames={self.chunk_frames}, got {self.slots}")
        if self.context_frames > self.chunk_frames:
            raise ValueError(
                f"chunk_frames must be at least context_frames={self.context_frames}, got {self.chunk_frames}"
            )
        if self.positions == "rope" and self.slots + self.chunk_frames > self.position_count:
            raise ValueError(
                f"RoPE needs slots + chunk_frames <= {self.position_count} positions, "
                f"got {self.slots} + {self.chunk_frames}"
            )

    @property
    def rows(self) -> int:
        """Transformer rows B of the denoise graph."""
        return self.requests * self.rows_per_request

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a latent frame."""
        return self.latent_channels, self.latent_height, self.latent_width

    @property
    def cache_elements(self) -> int:
        """Elements of the whole KV cache: 2·L·K·B·S·C."""
        width = self.heads * self.head_size
        return 2 * self.layers * self.slots * self.rows * self.tokens_per_frame * width


@dataclass(frozen=True)
class ScheduleSpec:
    """The noise schedule the model was trained with; None stands for the schedule's own default."""

    name: Literal["linear", "cosine", "scaled_linear"] = "linear"
    train_steps: int = 1000
    beta_start: float | None = None
    beta_end: float | None = None


@dataclass(frozen=True)
class SamplerDefaults:
    """What a session takes where its caller says nothing."""

    name: str = "iddpm"
    steps: int = 50
    guidance: float = 1.0


@dataclass(frozen=True)
class Codec:
    """Two graphs between pictures and latents.

    Attributes:
        kind: "preview" for the fixed map that stands in where no VAE was exported, "vae" for a trained one.
        encode: ``pictures`` [1, 3, H, W] in -1..1 to ``latent`` [1, c, h, w].
        decode: ``latent`` [T, c, h, w] to ``pictures`` [T, 3, H, W] in -1..1.
    """

    kind: Literal["preview", "vae"]
    encode: Graph
    decode: Graph

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width of a pixel frame."""
        return self.encode.inputs[0].shape[2], self.encode.inputs[0].shape[3]


@dataclass(frozen=True)
class Manifest:
    """What ``model.json`` says.

    Attributes:
        schema: Version of this format.
        family: Kind of model: "ca2vdm".
        name: The model's name, for people.
        prediction: What the network predicts.
        geometry: Every size.
        schedule: The noise schedule of its training.
        sampler: Defaults of a session.
        graphs: By precision, then by stage: "fill" and "denoise".
        codec: Between pictures and latents; None where pictures cannot be had.
        null_text: The null prompt, .npy float32 [tokens, width]; None without text.
        random_weights: Whether the weights were never trained, so that the frames mean nothing.
        provenance: Where it came from: checkpoint and its hash, versions, command.
    """

    family: Literal["ca2vdm"]
    name: str
    prediction: Literal["epsilon", "v", "flow"]
    geometry: Geometry
    schedule: ScheduleSpec
    sampler: SamplerDefaults
    graphs: Mapping[str, Mapping[str, Graph]]
    codec: Codec | None
    null_text: Artifact | None
    random_weights: bool
    provenance: Mapping[str, str]
    schema: int = field(default=SCHEMA)

    def artifacts(self) -> Iterator[Artifact]:
        """Yield every file that the bundle consists of, each once."""
        graphs = [graph for stages in self.graphs.values() for graph in stages.values()]
        if self.codec is not None:
            graphs += [self.codec.encode, self.codec.decode]
        files = {part.file: part for graph in graphs for part in (graph.file, graph.weights) if part is not None}
        if self.null_text is not None:
            files[self.null_text.file] = self.null_text
        yield from files.values()


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: The folder.
        manifest: Its ``model.json``.
    """

    path: Path
    manifest: Manifest

    def locate(self, artifact: Artifact) -> Path:
        """Return the absolute path of a file of the bundle.

        Raises:
            BundleError: The path leaves the bundle, is a link, is missing, or has another length than recorded.
        """
        path = _inside(self.path, artifact.file)
        if not path.is_file():
            raise BundleError(f"the bundle names '{artifact.file}', which is missing", path=self.path)
        found = path.stat().st_size
        if found != artifact.nbytes:
            raise BundleError(
                f"wanted {artifact.nbytes} bytes, found {found}; the file is truncated or was altered: "
                "copy or export the bundle again",
                path=path,
            )
        return path

    def verify(self) -> None:
        """Check every file's length and SHA-256.

        Raises:
            BundleError: A file is missing or is not the one that was recorded.
        """
        for artifact in self.manifest.artifacts():
            path = self.locate(artifact)
            try:
                found = sha256_of(path)
            except OSError as error:
                raise BundleError(f"cannot be read: {error.strerror}", path=path) from error
            if found != artifact.sha256:
                raise BundleError(
                    f"wanted SHA-256 {artifact.sha256[:16]}…, found {found[:16]}…; the file was altered: "
                    "copy or export the bundle again",
                    path=path,
                )

    def graphs(self, precision: str | None) -> tuple[str, Mapping[str, Graph]]:
        """Return a precision and its graphs; None takes fp32 where it is there, the exact one, else the first.

        Raises:
            BundleError: The bundle has not that precision.
        """
        graphs = self.manifest.graphs
        chosen = precision or ("fp32" if "fp32" in graphs else next(iter(graphs)))
        if chosen not in graphs:
            raise BundleError(
                f"has {', '.join(graphs)}, not {chosen!r}; export again with --precision {chosen}",
                path=self.path,
            )
        return chosen, graphs[chosen]


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and validate a bundle's ``model.json``; the files it names are checked when they are used.

    Raises:
        BundleError: It is no bundle, is of a newer schema, or something in it is missing or of the wrong kind.
    """
    folder = Path(path)
    file = folder / _MANIFEST
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        found = "is a file" if folder.is_file() else f"holds no {_MANIFEST}"
        raise BundleError(f"no bundle: it {found}; make one with vdmrt export", path=folder) from error
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", path=file) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"is no JSON or is cut short: {error}; export the bundle again", path=file) from error
    try:
        _check_schema(document)
        manifest = _decode(Manifest, document, "")
        _check_graphs(manifest)
    except _Invalid as error:
        raise BundleError(str(error), path=file, field=error.field or None) from error
    return Bundle(folder.resolve(), manifest)


@contextmanager
def new_bundle(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[BundleWriter]:
    """Write a bundle beside its place and rename it there when all of it is written; leave nothing on failure.

    Args:
        path: The folder to make.
        replace: Whether a bundle that is there may be replaced. Anything else is never touched.

    Raises:
        BundleError: The place is taken, or cannot be written.
    """
    target = Path(path).absolute()
    _check_place(target, replace=replace)
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise BundleError(f"cannot be written: {error.strerror}", path=target) from error
    try:
        (work / "graphs").mkdir()
        yield BundleWriter(work)
        work.chmod(0o755)
        _move_into_place(work, target)
    except OSError as error:
        raise BundleError(f"cannot be written: {error.strerror or error}; nothing was left", path=target) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


class BundleWriter:
    """A bundle in the making.

    Attributes:
        path: The temporary folder; its files keep their relative paths.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, file: str) -> Artifact:
        """Hash a file that was written into the folder."""
        path = self.path / file
        return Artifact(file, sha256_of(path), path.stat().st_size)

    def finish(self, manifest: Manifest) -> None:
        """Write ``model.json``."""
        text = json.dumps(dataclasses.asdict(manifest), indent=1)
        (self.path / _MANIFEST).write_text(text + "\n", encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 as hexadecimal digits, reading it piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_place(target: Path, *, replace: bool) -> None:
    if not target.parent.is_dir():
        raise BundleError(f"cannot be written: '{target.parent}' is no folder; make it first", path=target)
    if not os.path.lexists(target):
        return
    if not (target / _MANIFEST).is_file():
        raise BundleError("is there already and is no bundle; choose another place", path=target)
    if not replace:
        raise BundleError("is there already; choose another place, or replace it with --force", path=target)


def _move_into_place(work: Path, target: Path) -> None:
    """Rename; a bundle in the way is kept aside until the new one stands."""
    if not target.exists():
        work.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        target.rename(aside / "bundle")
        work.rename(target)
    except BaseException:  # Ctrl-C between the two renames must not lose the old one either
        if not os.path.lexists(target):
            (aside / "bundle").rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _inside(folder: Path, name: str) -> Path:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or {"\\", "\0"} & set(name):
        raise BundleError(f"{name!r} leaves the bundle; paths must be relative and stay inside it", path=folder)
    path = folder
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            raise BundleError(f"'{name}' is a link; a bundle holds regular files only", path=folder)
    return path


class _Invalid(ValueError):
    """A value is not what the schema wants; ``field`` is its path."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.field = path


def _check_schema(document: Any) -> None:
    found = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(found, int) or isinstance(found, bool):
        raise _Invalid("schema", f"wanted a number, found {found!r}; this is no model.json of vdmrt")
    if found > SCHEMA:
        raise _Invalid("schema", f"this vdmrt reads schema {SCHEMA}, found {found}; install a newer vdmrt")
    if found < SCHEMA:
        raise _Invalid("schema", f"this vdmrt reads schema {SCHEMA}, found {found}; export the model again")


def _check_graphs(manifest: Manifest) -> None:
    if not manifest.graphs:
        raise _Invalid("graphs", "wanted at least one precision, found none")
    for precision, stages in manifest.graphs.items():
        known = typing.get_args(Precision)
        if precision not in known:
            raise _Invalid(f"graphs.{precision}", f"wanted {' or '.join(known)}, found {precision!r}")
        for stage in ("fill", "denoise"):
            if stage not in stages:
                raise _Invalid(f"graphs.{precision}", f"wanted 'fill' and 'denoise', found {sorted(stages)}")
        _check_cache(manifest.geometry, stages, f"graphs.{precision}")
    if manifest.codec is not None:
        for stage, graph in (("encode", manifest.codec.encode), ("decode", manifest.codec.decode)):
            if [len(tensors) for tensors in (graph.inputs, graph.outputs)] != [1, 1] or any(
                len(tensor.shape) != 4 for tensor in graph.inputs + graph.outputs
            ):
                raise _Invalid(f"codec.{stage}", "wanted one input and one output of four sides each")


def _check_cache(g: Geometry, stages: Mapping[str, Graph], path: str) -> None:
    """Hold the cache tensors against the geometry: memory is allocated by the one and bound by the other."""
    dtypes = set()
    for stage, rows in (("fill", g.rows_per_request), ("denoise", g.rows)):
        cells = (rows, g.tokens_per_frame * g.heads)
        wanted = {
            "past": (*cells, g.slots, g.head_size),
            "present": (*cells, g.chunk_frames, g.head_size),
            "context": (rows, g.heads, g.context_frames * g.tokens_per_frame, g.head_size),
        }
        for tensor in stages[stage].inputs + stages[stage].outputs:
            group, _, rest = tensor.name.partition("_")
            if group not in wanted or rest.partition(".")[0] not in ("k", "v"):
                continue
            dtypes.add(tensor.dtype)
            if tensor.shape != wanted[group]:
                raise _Invalid(
                    f"{path}.{stage}",
                    f"the geometry makes '{tensor.name}' {list(wanted[group])}, found {list(tensor.shape)}",
                )
    if len(dtypes) != 1:
        raise _Invalid(path, f"wanted one dtype for all cache tensors, found {sorted(dtypes)}")


_T = TypeVar("_T")


def _decode(kind: type[_T], value: Any, path: str) -> _T:
    """Build a dataclass from parsed JSON; errors carry the path inside the document."""
    wanted = typing.get_type_hints(kind)
    if not isinstance(value, dict):
        raise _Invalid(path, f"wanted an object, found {_kind(value)}")
    unknown = sorted(set(value) - set(wanted))
    if unknown:
        raise _Invalid(path, f"unknown name {unknown[0]!r}; known are {', '.join(wanted)}")
    arguments = {}
    for member in dataclasses.fields(kind):  # type: ignore[arg-type]
        here = f"{path}.{member.name}" if path else member.name
        if member.name in value:
            arguments[member.name] = _decode_value(wanted[member.name], value[member.name], here)
        elif member.default is dataclasses.MISSING:
            raise _Invalid(here, "is missing")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise _Invalid(path, str(error)) from error


def _decode_value(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise _Invalid(path, f"wanted one of {', '.join(map(repr, arguments))}, found {value!r}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _decode_value(next(part for part in arguments if part is not type(None)), value, path)
    if origin is tuple:
        items = _expect(value, list, path)
        return tuple(_decode_value(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(items))
    if origin is not None and issubclass(origin, Mapping):
        entries = _expect(value, dict, path)
        return {name: _decode_value(arguments[1], item, f"{path}.{name}") for name, item in entries.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _decode(kind, value, path)
    return _expect(value, kind, path)


def _expect(value: Any, kind: type[_T], path: str) -> _T:
    if kind is float and type(value) is int:
        return float(value)  # type: ignore[return-value]
    if type(value) is not kind:
        raise _Invalid(path, f"wanted {_NAMES.get(kind, kind.__name__)}, found {_kind(value)}")
    return value


_NAMES = {
    dict: "an object", list: "a list", str: "a string", int: "an integer", float: "a number", bool: "true or false",
}  # fmt: skip


def _kind(value: Any) -> str:
    if isinstance(value, (dict, list)) or value is None:
        return "null" if value is None else _NAMES[type(value)]
    return repr(value)
