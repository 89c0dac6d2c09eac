"""Recorded cases of the reference model: finding, reading and comparing them."""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

Array = npt.NDArray[Any]
ROOT = Path(os.environ.get("VDMRT_GOLDEN") or Path(__file__).parents[1] / "data" / "golden")


@dataclass(frozen=True)
class Case:
    """One variant of the model with its weights, inputs and outputs."""

    name: str

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        return _json(self.folder / "config.json")

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        return _json(self.folder / "meta.json")

    @functools.cached_property
    def tensors(self) -> dict[str, Array]:
        return load_file(self.folder / "io.safetensors")

    def text_mask(self, row: int) -> Array | None:
        """Return the text mask of a row, float32; guided rows repeat the prompts'. None where all tokens count."""
        mask = self.tensors.get("text.mask")
        return None if mask is None else mask[row % len(mask)].astype(np.float32)

    def atol(self, record: str) -> float:
        return float(self.meta["suggested_atol"][record])

    @property
    def is_first_frame(self) -> bool:
        return self.config.get("effective_spatial_attn_enhance") == "first_frame"


def cases() -> list[Case]:
    """Return every model case; an empty folder is an error, never a silent pass."""
    found = [Case(path.parent.name) for path in sorted(ROOT.glob("*/config.json")) if "model" in _json(path)]
    assert found, f"no recorded case in {ROOT}; set VDMRT_GOLDEN to a folder of cases"
    return found


def schedules() -> list[Case]:
    """Return every recorded scheduler."""
    found = [Case(path.parent.name) for path in sorted(ROOT.glob("*/config.json")) if "type" in _json(path)]
    assert found, f"no recorded scheduler in {ROOT}; set VDMRT_GOLDEN to a folder of cases"
    return found


def rollouts() -> list[tuple[Case, str]]:
    """Return all valid rollouts; for a first-frame context only those with the fix (reference, section 10)."""
    return [
        (case, name)
        for case in cases()
        for name, settings in case.config["rollouts"].items()
        if bool(settings.get("first_frame_fix") or name.endswith("_fixed")) == case.is_first_frame
    ]


def frames_first(video: Array) -> Array:
    """Transpose [c, t, h, w] to contiguous [t, c, h, w]."""
    return np.ascontiguousarray(video.swapaxes(0, 1))


def assert_close(what: str, found: Array, wanted: Array, atol: float) -> None:
    """Compare arrays, and print the largest difference, its position and its share of the tolerance."""
    assert found.shape == wanted.shape, f"{what}: {found.shape} against {wanted.shape}"
    difference = np.abs(found.astype(np.float64) - wanted)
    worst = np.unravel_index(int(difference.argmax()), difference.shape)
    share = 100 * difference[worst] / atol
    print(f"{what}: largest difference {difference[worst]:.3g} at {list(map(int, worst))}, {share:.0f} % of {atol:.3g}")
    assert np.isfinite(found).all(), f"{what}: NaN or Inf"
    assert share <= 100, f"{what}: {difference[worst]:.3g} at {list(map(int, worst))} exceeds {atol:.3g}"


def relative_error(found: Array, wanted: Array) -> float:
    """Return the relative L2 error."""
    wanted = wanted.astype(np.float64)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def _json(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded
