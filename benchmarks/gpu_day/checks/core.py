"""The C core's functions, each called once, to be run under compute-sanitizer, which reports wrong reads and writes."""

from __future__ import annotations

from typing import Any

from ..running.record import Missing, Recorder
from ..running.settings import Settings, load_model, need_gpu
from .plans import place_bundle
from .rollout import check_threads

__all__ = ["check_lanes", "check_replay"]

STEPS, CANCEL_AT, NBYTES = 20, 7, 4096


class _Cancelled(Exception):
    """What a callback ends the loop with."""


def check_replay(settings: Settings, record: Recorder) -> None:
    """Replay with callbacks, and with a cancel; needs the C core alone.

    The sanitizer reports when its process ends, so this has one of its own.
    """
    need_gpu(settings, also_rehearsing=True)
    index = int(settings.device.partition(":")[2] or 0)
    seen = replay_with_callbacks(index)
    record.add("replay loop, callbacks seen", len(seen), "steps", least=STEPS, most=STEPS)
    seen = replay_with_callbacks(index, cancel_at=CANCEL_AT)
    record.add("replay loop that is cancelled, callbacks seen", len(seen), "steps", least=CANCEL_AT, most=CANCEL_AT)


def check_lanes(settings: Settings, record: Recorder) -> None:
    """Run two lanes of the sky in two threads, on ONNX Runtime."""
    need_gpu(settings, also_rehearsing=True)
    with load_model(place_bundle(settings, "sky"), "onnxruntime", "fp16", settings.device) as model:
        if "CUDA" not in model.backend.describe():
            raise Missing(f"the sky needs ONNX Runtime's CUDA provider here, got {model.backend.describe()}")
        check_threads(model, settings, record, "sky", chunks=2)


def replay_with_callbacks(index: int, cancel_at: int | None = None) -> list[int]:
    """Replay a captured copy; return the numbers that the callback got, and check that a cancelled loop can go on.

    Args:
        index: The GPU.
        cancel_at: The number at which the callback raises.
    """
    from vdmrt.runtime import _core
    from vdmrt.runtime.device.stepper import ReplayStepper, capture

    device: Any = _core.cuda_device(index)
    source, target, events = device.allocate(NBYTES), device.allocate(NBYTES), device.events(STEPS + 1)
    stepper = ReplayStepper(
        device, events, capture(device, lambda: device.copy(target.address, source.address, NBYTES))
    )
    seen: list[int] = []

    def on_step(done: int) -> None:
        seen.append(done)
        if done == cancel_at:
            raise _Cancelled

    try:
        stepper.run(STEPS, on_step)
    except _Cancelled:
        stepper.run(STEPS, None)
    finally:
        for owned in (stepper, events, source, target, device):
            owned.close()
    return seen
