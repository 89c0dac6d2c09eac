"""Kits: what a stage needs beside the tree, and what of it has arrived."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Archive", "Kit", "Piece", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Piece:
    """A file of a transfer."""

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Archive:
    """A tar and its pieces, in order."""

    name: str
    nbytes: int
    sha256: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Kit:
    """What belongs together.

    Attributes:
        name: As stages name it: "base", "rtx", "onnxruntime", "tensorrt".
        archives: What it is made of.
        unpack_s: How long unpacking it may take on the device.
    """

    name: str
    archives: tuple[Archive, ...]
    unpack_s: float = 5.0

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces, in order."""
        return tuple(piece for archive in self.archives for piece in archive.pieces)


def write_manifest(folder: Path, kits: Iterable[Kit]) -> None:
    """Write what all pieces are; it travels with each transfer."""
    document = [dataclasses.asdict(kit) for kit in kits]
    (folder / MANIFEST).write_text(json.dumps(document, indent=1) + "\n")


def read_manifest(folder: Path) -> tuple[Kit, ...]:
    """Read what :func:`write_manifest` wrote; nothing where there is none."""
    path = folder / MANIFEST
    return tuple(map(_kit, json.loads(path.read_text()))) if path.is_file() else ()


def _kit(document: dict[str, Any]) -> Kit:
    archives = [
        Archive(**{**one, "pieces": tuple(Piece(**piece) for piece in one["pieces"])}) for one in document["archives"]
    ]
    return Kit(document["name"], tuple(archives), document["unpack_s"])
