"""Optimized ONNX graphs for ONNX Runtime."""

from __future__ import annotations
