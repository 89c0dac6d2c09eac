"""The bundle's folder: opening it with checked paths, and writing it atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import BundleError
from .artifact import Artifact
from .graph import Graph
from .manifest import Manifest, check_schema
from .precision import Precision
from .storage.decoding import InvalidDocument, decode, encode
from .storage.files import (
    explained_writing,
    is_part,
    link_or_copy,
    part_folder,
    replace_folder,
    sha256_of,
)
from .validation import check_manifest

__all__ = [
    "Bundle",
    "BundleWriter",
    "amended_bundle",
    "check_bundle_place",
    "new_bundle",
    "open_bundle",
]

_MANIFEST = "model.json"


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
            BundleError: The path leaves the bundle, is a link, is missing, or its length differs from the recorded one.
        """
        path = _inside(self.path, artifact.file)
        if not path.is_file():
            raise BundleError(f"'{artifact.file}' is missing; copy or export the bundle again", path=self.path)
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
            BundleError: A file is missing or differs from the recorded one.
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

    def graphs(self, precision: Precision) -> Mapping[str, Graph]:
        """Return the graphs of a precision, by stage; :mod:`~vdmrt.bundle.resolution` chooses one where none is named.

        Raises:
            BundleError: The bundle does not have that precision.
        """
        graphs = self.manifest.graphs
        if precision not in graphs:
            raise BundleError(
                f"has {', '.join(map(str, graphs))}, not '{precision}'; {_remedy(precision)}", path=self.path
            )
        return graphs[precision]


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and validate a bundle's ``model.json``; the files it names are checked when they are used.

    Raises:
        BundleError: The folder is not a bundle, has a newer schema, or a field is missing or has the wrong type.
    """
    folder = Path(path)
    file = folder / _MANIFEST
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        found = "is a file" if folder.is_file() else f"has no {_MANIFEST}"
        raise BundleError(f"not a bundle: it {found}; make one with vdmrt export", path=folder) from error
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", path=file) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"is not valid JSON or is truncated: {error}; export the bundle again", path=file) from error
    try:
        check_schema(document)
        manifest = decode(Manifest, document, "")
        check_manifest(manifest)
    except InvalidDocument as error:
        raise BundleError(str(error), path=file, field=error.field or None) from error
    return Bundle(folder.resolve(), manifest)


@contextmanager
def new_bundle(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[BundleWriter]:
    """Write a bundle to a temporary folder and rename it when it is complete; leave nothing on failure.

    Args:
        path: The folder to create.
        replace: Whether an existing bundle may be replaced. Anything else is never replaced.

    Raises:
        BundleError: The path is taken, or cannot be written.
    """
    target = _free_place(path, replace=replace)
    with explained_writing(target, fail=BundleError), part_folder(target) as work:
        (work / "graphs").mkdir()
        yield BundleWriter(work)
        replace_folder(work, target)


def check_bundle_place(path: str | os.PathLike[str], *, replace: bool = False) -> None:
    """Check that :func:`new_bundle` can write a bundle at a path, before any work is done.

    Raises:
        BundleError: The path is taken, or cannot be written.
    """
    target = _free_place(path, replace=replace)
    with explained_writing(target, fail=BundleError), part_folder(target):
        pass


@contextmanager
def amended_bundle(bundle: Bundle, *, without: Collection[str] = ()) -> Iterator[BundleWriter]:
    """Write a copy of a bundle with further files, and replace the bundle when the copy is complete.

    Existing files are carried over by hard links, so that nothing large is copied; unfinished files of killed writers
    are not. The caller adds files, never changes one that was carried over, and finishes the manifest.

    Args:
        bundle: The bundle to amend.
        without: Relative paths of files that are not carried over, because they are written again.

    Raises:
        BundleError: The path cannot be written.
    """
    with new_bundle(bundle.path, replace=True) as writer:
        for source in sorted(bundle.path.rglob("*")):
            file = source.relative_to(bundle.path)
            is_unfinished = any(is_part(part) for part in (file, *file.parents))
            is_plain = source.is_file() and not source.is_symlink()
            if is_plain and not is_unfinished and file.as_posix() not in {_MANIFEST, *without}:
                link_or_copy(source, writer.path / file)
        yield writer


class BundleWriter:
    """A bundle that is being written.

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
        text = json.dumps(encode(manifest), indent=1)
        (self.path / _MANIFEST).write_text(text + "\n", encoding="utf-8")


def _remedy(precision: Precision) -> str:
    return f"export again with --precision {precision}" if precision.is_exported else "make it with vdmrt calibrate"


def _free_place(path: str | os.PathLike[str], *, replace: bool) -> Path:
    """Return the absolute path, behind links, for a new bundle; raise if something else is there."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise BundleError(f"cannot be written: '{target.parent}' is not a folder; make it first", path=target)
    with explained_writing(target, fail=BundleError), suppress(FileNotFoundError):
        target.lstat()
        if not (target / _MANIFEST).is_file():
            raise BundleError("already exists and is not a bundle; choose another place", path=target)
        if not replace:
            raise BundleError("already exists; choose another place, or replace it with --force", path=target)
    return target


def _inside(folder: Path, name: str) -> Path:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or {"\\", "\0"} & set(name):
        raise BundleError(f"{name!r} leaves the bundle; paths must be relative and stay inside it", path=folder)
    path = folder
    for part in pure.parts:
        path = path / part
        if path.is_symlink():
            raise BundleError(f"'{name}' is a link; a bundle contains regular files only", path=folder)
    return path
