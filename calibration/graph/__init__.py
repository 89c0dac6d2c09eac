"""Graphs with Q/DQ pairs: scales, rounding, rendering."""

from __future__ import annotations
