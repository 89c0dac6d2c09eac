"""What to build; the names are the options of ``vdmrt build``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..bundle import BackendName, Precision, ProviderName

__all__ = ["BuildRequest"]


@dataclass(frozen=True)
class BuildRequest:
    """What to build, for what, and how it is checked.

    Attributes:
        backend: Backend that runs the engine.
        provider: Execution provider of ONNX Runtime that runs the engine.
        precision: Precision of the graphs; None takes what the backend takes first.
        gpu: Index of the GPU in the driver's order, for TensorRT, and for TensorRT for RTX without targets.
        check: Checks after the build; "auto" skips long ones.
        force: Whether an engine is built that exists already, or does not seem to fit.
    """

    backend: BackendName = "tensorrt"
    provider: ProviderName = "cpu"
    precision: Precision | None = None
    gpu: int = 0
    check: Literal["auto", "full", "off"] = "auto"
    force: bool = False
