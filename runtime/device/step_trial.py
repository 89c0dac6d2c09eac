"""Comparison of a replayed denoising step with an eager one, to detect work that the capture missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...bundle import NEXT_STATE, Role
from ...errors import BackendError

if TYPE_CHECKING:
    from .arrays import Array, TensorBlock
    from .stepper import EagerStepper, ReplayStepper

__all__ = ["StepTrial"]

_TABLE = Role.TIMESTEPS, Role.COEFFICIENTS


class StepTrial:
    """One step of a lane from a fixed state."""

    def __init__(self, inputs: TensorBlock, state: TensorBlock) -> None:
        """Write values that affect every part of a step: the check must not compare zeros.

        Args:
            inputs: Inputs of the lane's denoise graph.
            state: State of the graph; the lane copies its results there.
        """
        self._inputs = inputs
        self._state = state
        self._handed_on = [role for role in NEXT_STATE if role in state]
        numbers = np.random.default_rng(0)
        for role in _TABLE:
            inputs[role][:] = numbers.uniform(0.1, 0.9, inputs[role].shape)
            inputs.upload(role)

    def run(self, stepper: EagerStepper | ReplayStepper) -> dict[Role, Array]:
        """Run the step; return a copy of the new state."""
        self._clear(self._state, self._handed_on)
        latent = self._state[Role.LATENT]
        latent[:] = np.random.default_rng(1).standard_normal(latent.shape)
        self._state.upload(Role.LATENT)
        stepper.run(1, None)
        for role in self._handed_on:
            self._state.download(role)
        return {role: self._state[role].copy() for role in self._handed_on}

    def check(self, eager: Mapping[Role, Array], replayed: Mapping[Role, Array]) -> None:
        """Compare two runs bit for bit.

        Raises:
            BackendError: The results differ.
        """
        for role in self._handed_on:
            if not np.array_equal(eager[role], replayed[role]):
                raise BackendError(
                    f"'{role}' of a replayed denoising step differs from an eager one's; load with cuda_graph=False "
                    "and report the backend's version"
                )

    def clear(self) -> None:
        """Zero everything that was written."""
        self._clear(self._inputs, _TABLE)
        self._clear(self._state, self._handed_on)

    def _clear(self, block: TensorBlock, roles: Sequence[Role]) -> None:
        for role in roles:
            block[role][:] = 0
            block.upload(role)
