"""Calibrated bundles, for the tests of calibration and verification."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from vdmrt.calibration.calibrating import CalibrationRequest, CalibrationSummary, calibrate

__all__ = ["calibrate_copy", "tiny_latents"]


def tiny_latents(folder: Path, clips: int = 2, frames: int = 7) -> Path:
    """Write latents of the tiny bundle's size, [clips, frames, 4, 4, 6]."""
    path = folder / "latents.npy"
    np.save(path, np.random.default_rng(5).standard_normal((clips, frames, 4, 4, 6)).astype(np.float32))
    return path


def calibrate_copy(bundle: Path, folder: Path, **options: object) -> CalibrationSummary:
    """Calibrate a copy of a bundle, ``folder / "bundle"``, on few samples."""
    copy = folder / "bundle"
    if not copy.exists():
        shutil.copytree(bundle, copy)
    given = {"samples": 12, "threads": 1, "data": tiny_latents(folder), **options}
    return calibrate(CalibrationRequest(bundle=copy, **given))  # type: ignore[arg-type]
