"""Measurement of a stream of chunks: times, memory and power."""

from __future__ import annotations
