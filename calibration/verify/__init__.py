"""Verification: a precision compared with a reference over rollouts."""

from __future__ import annotations
