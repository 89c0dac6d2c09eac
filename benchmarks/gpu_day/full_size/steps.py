"""Which contender is which: what a contender's process loads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ..running.contender import Steps
from ..running.settings import Settings
from .chunk import FirstChunk

__all__ = ["make_steps"]


def make_steps(settings: Settings, arguments: dict[str, Any]) -> tuple[Steps, dict[str, Any]]:
    """Load what the arguments of a contender name, and save its first chunk's latents, if any, for comparison."""
    started = time.perf_counter()
    steps = _load(settings, Path(arguments["folder"]), arguments["kind"], arguments)
    place = Path(arguments["latents"])
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    latents = steps.first_chunk(FirstChunk(steps.bundle, settings.seed))
    if latents is not None:
        np.save(place, latents)
    return steps, {"seconds_to_load": round(time.perf_counter() - started, 1)}


def _load(settings: Settings, folder: Path, kind: str, arguments: dict[str, Any]) -> Any:
    if kind == "torch":
        from .torch_steps import TorchSteps

        modes = tuple(arguments["modes"])
        return TorchSteps(folder, settings.device.partition(":")[0], modes, uncached=arguments["uncached"])
    if kind == "rtx":
        from ..rtx.steps import RtxSteps

        return RtxSteps(folder, settings, arguments["depth"])
    from .vdmrt_steps import VdmrtSteps

    return VdmrtSteps(folder, kind, settings.device)
