"""A backend with artificial delays, which a profiler must find."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from vdmrt.bundle import FP32, open_bundle
from vdmrt.runtime import Model
from vdmrt.runtime.backends.backend import Backend
from vdmrt.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from vdmrt.runtime.backends.stage_source import StageSource

__all__ = ["Delay", "delayed_model"]

# Returns the extra seconds for a stage and the number of its run, from 0.
Delay = Callable[[str, int], float]


def delayed_model(bundle: Path, delay: Delay, took: dict[str, list[float]] | None = None) -> Model:
    """Load a bundle whose runs of "fill", "denoise", "encode" and "decode" take longer.

    Args:
        bundle: The folder.
        delay: Returns the extra seconds of a run.
        took: Receives the milliseconds of each run, by stage: on a busy machine a sleep takes longer than requested.
    """
    delayed = _Delayed(OnnxRuntimeBackend(), delay, "", {} if took is None else took)
    return Model(open_bundle(bundle), cast(Backend, delayed), FP32)


class _Delayed:
    """Wrapper of a backend, a program or a call; it sleeps before each enqueue."""

    def __init__(self, inner: Any, delay: Delay, stage: str, took: dict[str, list[float]]) -> None:
        self._inner, self._delay, self._stage, self._took = inner, delay, stage, took
        self._runs = [0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def load(self, source: StageSource) -> _Delayed:
        return _Delayed(self._inner.load(source), self._delay, source.stage.removeprefix("vae_"), self._took)

    def bind(self, *given: Any) -> _Delayed:
        return self._wrap(self._inner.bind(*given))

    def enqueue(self) -> None:
        began = time.perf_counter()
        time.sleep(self._delay(self._stage, self._runs[0]))
        self._runs[0] += 1
        self._inner.enqueue()
        self._took.setdefault(self._stage, []).append((time.perf_counter() - began) * 1e3)

    def _wrap(self, inner: Any) -> _Delayed:
        wrapped = _Delayed(inner, self._delay, self._stage, self._took)
        wrapped._runs = self._runs  # one count for a stage, shared by all its calls
        return wrapped
