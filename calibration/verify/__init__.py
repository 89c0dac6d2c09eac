"""A precision compared with a reference over a rollout."""

from __future__ import annotations
