"""Calibration and verification of lower precision: observation of rollouts, Q/DQ graphs, accuracy gates."""

from __future__ import annotations
