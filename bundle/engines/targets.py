"""GPUs that plans of TensorRT for RTX are built for, by compute capability."""

from __future__ import annotations

import re

from .versions import version_numbers

__all__ = ["PORTABLE_TARGETS", "RTX_TARGETS", "has_fp8", "parse_target", "runs_on"]

# nvinfer1::ComputeCapability of TensorRT for RTX 1.7.
RTX_TARGETS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
# GPUs that run a plan without targets: "8.0, 8.6, 8.9, 12.0, and later"; Turing needs a plan of its own. NVIDIA
# documents neither Hopper (9.0) nor data-center Blackwell (10.x).
# https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html
PORTABLE_TARGETS = RTX_TARGETS[1:]
_FIRST_FP8 = (8, 9)


def parse_target(text: str) -> str:
    """Return the compute capability that a target names: "8.9" for "sm89", "89" or "8.9".

    Raises:
        ValueError: TensorRT for RTX builds for no such GPU.
    """
    found = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.strip().lower(), re.ASCII)
    capability = f"{found[1]}.{found[2]}" if found else ""
    if capability not in RTX_TARGETS:
        known = ", ".join(f"sm{each.replace('.', '')}" for each in RTX_TARGETS)
        raise ValueError(
            f"TensorRT for RTX builds for {known}, one in each --target; got {text!r}; for Hopper and data-center "
            "Blackwell take --backend tensorrt"
        )
    return capability


def has_fp8(capability: str) -> bool:
    """Whether a GPU of a compute capability has products in FP8: from Ada (8.9) on."""
    return version_numbers(capability) >= _FIRST_FP8


def runs_on(targets: tuple[str, ...], capability: str) -> bool:
    """Whether a GPU runs a plan for these targets; a plan without targets is portable."""
    return capability in (targets or PORTABLE_TARGETS)
