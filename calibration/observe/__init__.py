"""Activations and caches observed over rollouts."""

from __future__ import annotations
