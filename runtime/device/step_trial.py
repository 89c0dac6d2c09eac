"""Compares a replayed denoising step with an eager one: a library that escapes the capture shows stale pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...bundle import NEXT_STATE, Role
from ...errors import BackendError
from .arrays import Array, TensorBlock
from .stepper import EagerStepper, ReplayStepper

__all__ = ["StepTrial"]

_TABLE, _STATE = (Role.TIMESTEPS, Role.COEFFICIENTS), tuple(NEXT_STATE)


class StepTrial:
    """One step of a lane from a fixed state."""

    def __init__(self, inputs: TensorBlock, state: TensorBlock) -> None:
        """Write numbers that reach every part of a step: the check must not compare zeros.

        Args:
            inputs: Of the lane's denoise graph.
            state: What the graph hands on; the lane copies its results there.
        """
        self._inputs = inputs
        self._state = state
        numbers = np.random.default_rng(0)
        for name in _TABLE:
            inputs[name][:] = numbers.uniform(0.1, 0.9, inputs[name].shape)
            inputs.upload(name)

    def run(self, stepper: EagerStepper | ReplayStepper) -> dict[str, Array]:
        """Run the step; return a copy of what it hands on."""
        self._state[Role.LATENT][:] = np.random.default_rng(1).standard_normal(self._state[Role.LATENT].shape)
        self._state[Role.HISTORY][:] = 0
        self._state[Role.STEP][:] = 0
        for name in _STATE:
            self._state.upload(name)
        stepper.run(1, None)
        for name in _STATE:
            self._state.download(name)
        return {name: self._state[name].copy() for name in _STATE}

    def check(self, eager: Mapping[str, Array], replayed: Mapping[str, Array]) -> None:
        """Compare two runs bit for bit.

        Raises:
            BackendError: They differ.
        """
        for name in _STATE:
            if not np.array_equal(eager[name], replayed[name]):
                raise BackendError(
                    f"a replayed denoising step gives another '{name}' than an eager one; load with cuda_graph=False "
                    "and report the backend's version"
                )

    def clear(self) -> None:
        """Set everything that was written back to zero."""
        for block, names in ((self._inputs, _TABLE), (self._state, _STATE)):
            for name in names:
                block[name][:] = 0
                block.upload(name)
