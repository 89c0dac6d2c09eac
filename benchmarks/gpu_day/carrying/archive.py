"""Archives of files as they are, cut into pieces that a transfer takes, and put together again by their checksums."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from .kits import Archive, Piece

__all__ = ["DamagedPieceError", "cut", "join", "keep_pieces", "pack", "sha256_of"]

# Small, so that little room is left in a call.
PIECE_NBYTES = 1 << 20
_BLOCK = 1 << 20
# Level 1 with a large window: 2 % larger than level 3 for compiled code, in a third of the time.
_FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 64 << 20}]


class DamagedPieceError(Exception):
    """A piece is not what the manifest says."""


def pack(files: Mapping[str, Path], target: Path, *, compress: bool = True) -> Path:
    """Write a tar of files, byte for byte, the same for the same files.

    An archive that is there and was made of the same files is kept: compressing libraries takes minutes.

    Args:
        files: Where each comes from, by its path in the archive.
        target: The archive.
        compress: Whether to compress it; tar alone for what is compressed already.
    """
    key = "".join(f"{name} {sha256_of(path)}\n" for name, path in sorted(files.items()))
    mark = target.with_suffix(".made-of")
    if target.is_file() and mark.is_file() and mark.read_text() == key:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_suffix(".new")
    with lzma.open(scratch, "wb", filters=_FILTERS) if compress else scratch.open("wb") as sink:
        with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for name, path in sorted(files.items()):
                info = tarfile.TarInfo(name)
                info.size, info.mode = path.stat().st_size, 0o755 if os.access(path, os.X_OK) else 0o644
                with path.open("rb") as source:
                    tar.addfile(info, source)
    os.replace(scratch, target)
    mark.write_text(key)
    return target


def cut(archive: Path, name: str, folder: Path, piece_nbytes: int = PIECE_NBYTES) -> Archive:
    """Cut an archive into numbered pieces in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces: list[Piece] = []
    with archive.open("rb") as source:
        while block := source.read(piece_nbytes):
            piece = Piece(f"{name}-{len(pieces):03d}.piece", len(block), hashlib.sha256(block).hexdigest())
            (folder / piece.name).write_bytes(block)
            pieces.append(piece)
    return Archive(name, archive.stat().st_size, sha256_of(archive), tuple(pieces))


def keep_pieces(source: Path, store: Path, archives: tuple[Archive, ...]) -> list[str]:
    """Copy the pieces that arrived into the store; return the names of all that are there.

    Raises:
        DamagedPieceError: Some that arrived do not have their checksums; the others are in the store.
    """
    store.mkdir(parents=True, exist_ok=True)
    damaged = []
    wanted = [piece for archive in archives for piece in archive.pieces]
    for piece in wanted:
        arrived = source / piece.name
        if arrived.is_file() and not (store / piece.name).is_file():
            if sha256_of(arrived) != piece.sha256:
                damaged.append(f"{arrived} arrived damaged: its SHA-256 is not {piece.sha256}; carry it again")
                continue
            shutil.copyfile(arrived, store / f".{piece.name}")
            os.replace(store / f".{piece.name}", store / piece.name)
    if damaged:
        raise DamagedPieceError("; ".join(damaged))
    return [piece.name for piece in wanted if (store / piece.name).is_file()]


def join(archive: Archive, store: Path, target: Path) -> None:
    """Unpack an archive whose pieces are all there.

    Raises:
        DamagedPieceError: Put together, they do not have the archive's checksum.
    """
    digest, whole = hashlib.sha256(), store / f".{archive.name}.whole"
    with whole.open("wb") as sink:
        for block in _blocks(store / piece.name for piece in archive.pieces):
            digest.update(block)
            sink.write(block)
    if digest.hexdigest() != archive.sha256:
        raise DamagedPieceError(f"the pieces of {archive.name} do not make up the archive that was cut")
    target.mkdir(parents=True, exist_ok=True)
    with whole.open("rb") as source:
        packed = source.read(6) == b"\xfd7zXZ\0"
        source.seek(0)
        stream: io.BufferedIOBase = lzma.open(source) if packed else source
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            tar.extractall(target, filter="data")
    whole.unlink()


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256, in hex."""
    digest = hashlib.sha256()
    for block in _blocks([path]):
        digest.update(block)
    return digest.hexdigest()


def _blocks(paths: Iterator[Path] | list[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as source:
            while block := source.read(_BLOCK):
                yield block
