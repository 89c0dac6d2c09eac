"""Samplers as tables, timestep schedules, and noise."""

from __future__ import annotations
