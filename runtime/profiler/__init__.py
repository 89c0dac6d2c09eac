"""NVML readings."""

from __future__ import annotations
