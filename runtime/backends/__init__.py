"""What executes graphs: ONNX Runtime and TensorRT behind one interface."""

from __future__ import annotations
