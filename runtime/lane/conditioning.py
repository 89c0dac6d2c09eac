"""Conditioning of a request: text, guidance scale and sampler coefficients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...bundle import Role

if TYPE_CHECKING:
    from ..device.arrays import Array
    from .lane_lock import LaneLock
    from .lane_tensors import LaneTensors
    from .prompt import Prompt

__all__ = ["Conditioning"]

_TEXT = Role.TEXT, Role.TEXT_MASK


class Conditioning:
    """Inputs of a lane's denoise graph that are constant from chunk to chunk."""

    __slots__ = ("_lock", "_tensors")

    def __init__(self, tensors: LaneTensors, lock: LaneLock) -> None:
        self._tensors = tensors
        self._lock = lock

    def set_text(self, request: int, prompt: Prompt) -> None:
        """Set a request's text [rows_per_request, tokens, width] and mask [rows_per_request, tokens]."""
        rows, inputs = self._tensors.rows(request), self._tensors.inputs
        with self._lock.used():
            for role, value in zip(_TEXT, prompt, strict=True):
                inputs[role][rows] = value
                inputs.upload(role, rows.start, rows.stop - rows.start)

    def text(self, request: int) -> dict[str, Array]:
        """Return copies of a request's text and mask by role; empty if the model has no text."""
        rows, inputs = self._tensors.rows(request), self._tensors.inputs
        with self._lock.used():
            return {str(role): inputs[role][rows].copy() for role in _TEXT if role in inputs}

    def set_guidance(self, request: int, guidance: float) -> None:
        """Set a request's guidance scale."""
        with self._lock.used():
            self._tensors.set_input(Role.GUIDANCE, request, guidance)

    def set_table(self, request: int, timesteps: Array, coefficients: Array) -> None:
        """Set a request's sampler table: timesteps [N] and coefficients [N, 8]."""
        with self._lock.used():
            self._tensors.set_input(Role.TIMESTEPS, request, timesteps)
            self._tensors.set_input(Role.COEFFICIENTS, request, coefficients)
