"""Lower precision that holds over a whole rollout: observation, Q/DQ graphs, and gates that measure the drift."""

from __future__ import annotations
