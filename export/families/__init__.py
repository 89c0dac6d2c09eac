"""The model families that can be exported."""

from __future__ import annotations
