"""A training checkpoint: written whole or not at all, so that a killed run can go on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` beside its place and rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_suffix(".part")
    torch.save(state, work)
    os.replace(work, path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint to host memory, or return None where there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
