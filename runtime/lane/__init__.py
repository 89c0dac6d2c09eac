"""Lanes: the tensors, the cache and the bound graphs that R requests share."""

from __future__ import annotations
