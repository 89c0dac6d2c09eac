"""NVTX ranges of stages, so that Nsight Systems shows the names of the report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ...bundle import Stage

if TYPE_CHECKING:
    from ...runtime.session.chunk import Chunk, Observer
    from ...runtime.session.session import Session

__all__ = ["NvtxRanges"]


class NvtxRanges:
    """An :class:`~vdmrt.runtime.session.chunk.Observer` that pushes a range for each stage and each denoising step.

    On a GPU these are host ranges: Nsight projects the work launched inside them onto the GPU's rows.
    """

    def __init__(self, *, module: Any = None, inner: Observer | None = None) -> None:
        """Open the domain "vdmrt".

        Args:
            module: Replacement of the package ``nvtx``; None imports it.
            inner: Another observer to which all events are forwarded.

        Raises:
            ImportError: ``nvtx`` is not installed; pip install nvtx.
        """
        module = module or importlib.import_module("nvtx")  # optional
        self._domain = module.get_domain("vdmrt")
        self._inner = inner
        self._attributes: dict[str, Any] = {}
        self._steps = 0
        self._inside = False

    def attach(self, session: Session) -> NvtxRanges:
        """Observe ``session``, in addition to its present observer; return this object."""
        self._inner = self._inner or session.observer
        self._steps = session.table.steps
        session.observer = self
        return self

    def begin(self, stage: str) -> None:
        """Push the stage's range, and for the denoising that of the first step."""
        if self._inner is not None:
            self._inner.begin(stage)
        self._push(stage)
        if stage == Stage.DENOISE:
            self._inside = True
            self._push("step 0")

    def step(self, done: int) -> None:
        """End a denoising step's range and push the next one's."""
        if self._inner is not None:
            self._inner.step(done)
        if self._inside:
            self._domain.pop_range()
            self._inside = done < self._steps
            if self._inside:
                self._push(f"step {done}")

    def end(self, stage: str) -> None:
        """Pop the stage's range."""
        if stage == Stage.DENOISE and self._inside:
            self._inside = False
            self._domain.pop_range()
        self._domain.pop_range()
        if self._inner is not None:
            self._inner.end(stage)

    def finish(self, chunk: Chunk) -> None:
        """Forward the chunk to the inner observer."""
        if self._inner is not None:
            self._inner.finish(chunk)

    def _push(self, name: str) -> None:
        # Attributes hold registered strings: created once for each name, reused for each range.
        if name not in self._attributes:
            self._attributes[name] = self._domain.get_event_attributes(message=name)
        self._domain.push_range(self._attributes[name])
