"""Arrays, events and captured CUDA graphs on one device."""

from __future__ import annotations
