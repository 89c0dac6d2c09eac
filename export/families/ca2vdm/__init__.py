"""Ca2-VDM: the causal transformer, its configuration and its graphs."""

from __future__ import annotations
