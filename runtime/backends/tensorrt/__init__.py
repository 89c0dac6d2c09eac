"""Backends of TensorRT and TensorRT for RTX."""

from __future__ import annotations
