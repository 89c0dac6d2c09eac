"""Load options: the arguments of :func:`vdmrt.load`, shared by every command that loads a bundle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...bundle import BACKENDS, Precision  # noqa: TC001  # --against reads the types of the fields
from ...hosts import thread_count

__all__ = ["LoadOptions", "gpu_index"]


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Options for loading a bundle.

    Attributes:
        backend: "auto" or one of :data:`~vdmrt.bundle.BACKENDS`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        precision: Precision of the graphs; None selects one, see :mod:`vdmrt.bundle.resolution`.
        threads: Threads of the CPU provider, at most one for each CPU that the process may use; None uses the maximum.
        cuda_graph: Whether to capture a denoising step on a GPU once and replay it.
        trust_plans: Whether to load plans that this user did not build.
        lean_runtime: TensorRT's library for version-compatible plans of another release.
        use_engine: Whether ONNX Runtime runs the graphs of a compatible engine.
    """

    backend: str = "auto"
    device: str = "auto"
    precision: Precision | None = None
    threads: int | None = None
    cuda_graph: bool = True
    trust_plans: bool = False
    lean_runtime: Path | None = None
    use_engine: bool = True

    def __post_init__(self) -> None:
        if self.backend not in ("auto", *BACKENDS):
            raise ValueError(f"backend must be auto or one of {', '.join(BACKENDS)}, got {self.backend!r}")
        gpu_index(self.device)
        if self.device == "cpu" and self.backend in BACKENDS and BACKENDS[self.backend].is_native:
            raise ValueError(
                f"the backend {self.backend} runs on a GPU only, got the device cpu; take cuda, or onnxruntime"
            )
        if self.threads is not None:  # counting CPUs reads files, which importing the commands must not
            thread_count(self.threads)


def gpu_index(device: str) -> int | None:
    """Return the GPU's number, or None for "cpu" and "auto".

    Raises:
        ValueError: ``device`` is not the name of a device.
    """
    if device in ("auto", "cpu"):
        return None
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", device, re.ASCII)
    if match is None:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}")
    return int(match[1] or 0)
