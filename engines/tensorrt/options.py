"""Build options, and the releases of TensorRT that support them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...bundle import RTX_TARGETS, has_fp8, parse_target
from ...errors import EngineError

if TYPE_CHECKING:
    from ...hosts.gpu import Gpu
    from ...hosts.tensorrt.library import TensorRtLibrary

__all__ = ["BuildOptions"]


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build. None selects the release's default.

    Attributes:
        optimization_level: How long the builder searches for faster kernels, 0 to 5 (from TensorRT 8.6).
        workspace_nbytes: Most scratch memory that a layer may use.
        timing_cache: File of kernel timings, reused by later builds; None selects the user's own.
        hardware_compatibility: Other GPUs on which the plans run (from 8.6, "same_compute_capability" from 10.9).
        version_compatible: Whether newer TensorRT up to the next major may run the plans, with the lean runtime of the
            release that built them (from 8.6).
        strip_weights: Whether the plans omit the weights, which are restored at loading (from 10).
        refit: Whether weights may be replaced in the built plans.
        weight_streaming_fill: Whether fill's weights may be kept in host memory (from 10).
        tf32: Whether float32 products may be rounded to TF32.
        external_tactics: Whether cuBLAS and cuDNN may be used (until 10); they must be installed.
        precision_constraints: Whether a weakly typed network's types are obeyed, preferred or ignored (before 10);
            "none" is for measurements: the builder then chooses the rounding.
        faster_dynamic_shapes: Whether 8.5's preview of that name is on: more of the network goes to its compiler.
        targets: GPUs to build for, as "sm89" or "8.9" (TensorRT for RTX); none takes this machine's, if it has one.
        portable: Whether to build for every GPU of TensorRT for RTX from Ampere on, even where this machine has one.
    """

    optimization_level: int | None = None
    workspace_nbytes: int | None = None
    timing_cache: Path | None = None
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    version_compatible: bool = False
    strip_weights: bool = False
    refit: bool = False
    weight_streaming_fill: bool = False
    tf32: bool = False
    external_tactics: bool = False
    precision_constraints: Literal["obey", "prefer", "none"] = "obey"
    faster_dynamic_shapes: bool = True
    targets: tuple[str, ...] = ()
    portable: bool = False

    def __post_init__(self) -> None:
        level, workspace = self.optimization_level, self.workspace_nbytes
        if level is not None and not 0 <= level <= 5:
            raise ValueError(f"the builder optimization level must be 0 <= level <= 5, got {level}")
        if workspace is not None and workspace < 1:
            raise ValueError(f"the workspace must be at least 1 byte, got {workspace}")
        if self.targets and self.portable:
            raise ValueError("--portable is for every GPU and --target for some: leave one of them out")
        if isinstance(self.targets, str):
            raise TypeError(f"wanted a tuple of targets, as ('sm89',), got {self.targets!r}")
        targets = sorted({parse_target(target) for target in self.targets}, key=RTX_TARGETS.index)
        object.__setattr__(self, "targets", tuple(targets))

    def for_fp8(self) -> BuildOptions:
        """Return the options with every GPU that has FP8 as the targets, where none is given."""
        if self.targets:
            return self
        return dataclasses.replace(self, targets=tuple(one for one in RTX_TARGETS if has_fp8(one)), portable=False)

    def for_gpu(self, gpu: Gpu | None) -> BuildOptions:
        """Return the options with this machine's GPU as the target, where none is given and it is a possible one."""
        if gpu is None or self.targets or self.portable or gpu.compute_capability not in RTX_TARGETS:
            return self
        return dataclasses.replace(self, targets=(gpu.compute_capability,))

    def to_manifest(self) -> dict[str, str]:
        """Return the options that affect the plans, as text; not the timing cache, which only saves time."""
        given = dataclasses.asdict(self)
        del given["timing_cache"]
        # A plan without targets is portable.
        given |= {"targets": ", ".join(self.targets) or None, "portable": False}
        return {name: str(value) for name, value in given.items() if value not in (None, False)}

    def check(self, tensorrt: TensorRtLibrary) -> None:
        """Check that a library supports the options.

        Raises:
            EngineError: It does not; the message names the option, and its first release or the other library.
        """
        (self._check_rtx if tensorrt.has_targets else self._check_release)(tensorrt)

    def _check_rtx(self, tensorrt: TensorRtLibrary) -> None:
        """Refuse what only TensorRT has. A timing cache would even require a GPU, with no effect on the plan."""
        given = {
            "--builder-optimization-level": self.optimization_level is not None,
            "--timing-cache": self.timing_cache is not None,
            "--hardware-compatibility": self.hardware_compatibility != "none",
            "--version-compatible": self.version_compatible,
            "--strip-weights": self.strip_weights,
            "--refit": self.refit,
            "--weight-streaming-fill": self.weight_streaming_fill,
            "--external-tactics": self.external_tactics,
            "--precision-constraints": self.precision_constraints != "obey",
        }
        for option, asked in given.items():
            if asked:
                raise EngineError(f"{option} is for TensorRT, and this builds with {tensorrt.title}; leave it out")

    def check_targets(self) -> None:
        """Check that no targets are given, for TensorRT, which builds for the GPU of this machine.

        Raises:
            EngineError: There are some.
        """
        for option, given in (("--target", self.targets), ("--portable", self.portable)):
            if given:
                raise EngineError(
                    f"{option} is for TensorRT for RTX, and TensorRT builds for this machine's GPU; take --backend "
                    "tensorrt-rtx, or leave it out"
                )

    def _check_release(self, tensorrt: TensorRtLibrary) -> None:
        level = self.hardware_compatibility.upper()
        wanted = [
            ("--builder-optimization-level", self.optimization_level is not None, "8.6", tensorrt.has_levels),
            (
                f"--hardware-compatibility {self.hardware_compatibility}",
                level != "NONE",
                "10.9" if level == "SAME_COMPUTE_CAPABILITY" else "8.6",
                tensorrt.has("HardwareCompatibilityLevel", level),
            ),
            ("--version-compatible", self.version_compatible, "8.6", tensorrt.has("BuilderFlag", "VERSION_COMPATIBLE")),
            ("--strip-weights", self.strip_weights, "10.0", tensorrt.has("BuilderFlag", "STRIP_PLAN")),
            (
                "--weight-streaming-fill",
                self.weight_streaming_fill,
                "10.0",
                tensorrt.has("BuilderFlag", "WEIGHT_STREAMING"),
            ),
        ]
        for option, asked, since, there in wanted:
            if asked and not there:
                raise EngineError(
                    f"{option} needs TensorRT {since} or newer, found {tensorrt.version}; leave it out, or install "
                    "a newer release"
                )
        if self.external_tactics and not tensorrt.has("TacticSource", "CUDNN"):
            raise EngineError(
                f"--external-tactics needs TensorRT 10 or older, found {tensorrt.version}, which uses neither cuBLAS "
                "nor cuDNN; leave it out"
            )
