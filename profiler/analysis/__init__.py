"""Statistics, comparisons, gates and hardware ceilings of a measured run."""

from __future__ import annotations
