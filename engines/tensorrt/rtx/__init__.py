"""Builds of TensorRT for RTX, ahead of time and without a GPU."""

from __future__ import annotations
