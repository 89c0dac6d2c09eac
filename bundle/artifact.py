"""A file of a bundle, as a manifest names it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Artifact"]


@dataclass(frozen=True)
class Artifact:
    """A file of the bundle: relative path, SHA-256 and length in bytes."""

    file: str
    sha256: str
    nbytes: int
