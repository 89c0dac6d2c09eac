"""The recorder's verdict of a plan of TensorRT for RTX, from its first bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .plans import HEADER_NBYTES, read_header

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["Verdict", "judge"]

# Compute capabilities that a plan without targets is for; it runs on later ones, more slowly.
PORTABLE = ("8.0", "8.6", "8.9", "12.0", "12.1")


@dataclass(frozen=True)
class Verdict:
    """What TensorRT for RTX thinks of a plan.

    Attributes:
        validity: "VALID", "SUBOPTIMAL" or "INVALID".
        diagnostics: Members of EngineInvalidityDiagnostics.
        severity: Severity of the logged reason.
        reason: What it logs; "" if nothing.
    """

    validity: str
    diagnostics: tuple[str, ...] = ()
    severity: str = "INFO"
    reason: str = ""


def judge(recorder: Recorder, data: bytes) -> Verdict:
    """Judge a plan from its header; where the real library has been seen, with its answers and sentences."""
    header = read_header(data[:HEADER_NBYTES])
    if header is None:
        reason = "The engine header does not conform to the expected format for TensorRT-RTX."
        return Verdict("INVALID", ("MALFORMED_ENGINE",), reason=reason)
    if not recorder.driver:  # without any diagnostic, as the real library without a driver
        reason = "Error reading CUDA GPU properties: (cudaError 35: CUDA driver version is insufficient)"
        return Verdict("INVALID", (), "INTERNAL_ERROR", reason)
    version, targets = header
    if version != recorder.version:
        reason = (
            f"The engine has been created with TensorRT-RTX version {version}, but the current runtime is TensorRT-RTX "
            f"version {recorder.version}."
        )
        return Verdict("INVALID", ("VERSION_MISMATCH",), reason=reason)
    return _judge_targets(recorder.compute_capability, targets)


def _judge_targets(capability: str, targets: tuple[str, ...]) -> Verdict:
    if capability in (targets or PORTABLE):
        return Verdict("VALID")
    if not targets and float(capability) > float(PORTABLE[-1]):
        return Verdict("SUBOPTIMAL")
    reason = f"The engine does not support this GPU's compute capability, {capability}."
    return Verdict("INVALID", ("UNSUPPORTED_CC",), reason=reason)
