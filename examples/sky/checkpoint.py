"""Training checkpoints, written atomically so that a killed run can continue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vdmrt.bundle import replaced_file

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path, fail=OSError) as file:
        torch.save(state, file)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Load a checkpoint to host memory, or return None if there is none."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
