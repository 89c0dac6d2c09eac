"""The installed TensorRT libraries: TensorRT and TensorRT for RTX, and their log."""

from __future__ import annotations
