"""The stages of the day, the most valuable first; each in a process of its own, each ended after its own limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .running.stage import Stage

__all__ = ["STAGES", "choose_stages", "left_to_run"]

RTX, ORT, TRT = ("base", "rtx"), ("base", "onnxruntime"), ("base", "tensorrt")
# Of the turns at depth 28; their spread is small, and each stage loads for a minute.
SHORT = {"rounds": 3, "steps": 5}


def _measure_xl(name: str, what: str, kits: tuple[str, ...], limit_s: float, **arguments: Any) -> Stage:
    """Return a stage that knows its own limit, and writes its summary before it is killed."""
    return Stage(name, what, "full_size.xl:measure_xl", {**arguments, "limit_s": limit_s}, "main", kits, limit_s)


STAGES = (
    Stage("environment", "GPU, driver, clocks, libraries", "checks.environment:describe", kits=(), limit_s=25),
    Stage("weights-28", "XL/2: its weights", "full_size.xl:make_weights_of", {"depth": 28},
          "main", ("base",), 25, True),
    # 1. TensorRT for RTX.
    Stage("rtx-verdict", "does TensorRT for RTX run on this GPU", "rtx.check:check_verdict", {}, "rtx", RTX, 25),
    Stage("rtx-cases", "calls of the sky and of recorded models", "rtx.check:check_cases", {}, "rtx", RTX, 25),
    Stage("rtx-build-28", "XL/2: its plans, here", "rtx.check:build_full_size", {"depth": 28}, "rtx", RTX, 80, True),
    _measure_xl("xl-28", "XL/2: RTX against torch", RTX, 110, depth=28, kinds=["torch", "rtx"], **SHORT),
    Stage("ceilings", "matrix products and copies at their best", "checks.ceilings:measure_ceilings", {},
          "main", (), 20),
    Stage("rtx-eight-bits", "INT8, FP8 and 8 bit caches of the sky", "rtx.check:check_cases", {"kit": "eight-bits"},
          "rtx", (*RTX, "eight-bits"), 25),
    # 2. ONNX Runtime CUDA.
    Stage("golden-onnxruntime", "recorded rollouts", "checks.golden:check_golden",
          {"backend": "onnxruntime", "precisions": ["fp32", "fp16"]}, "onnxruntime", ORT, 30),
    Stage("rollout-onnxruntime", "1,000 autoregressive steps", "checks.rollout:check_rollout",
          {"backend": "onnxruntime"}, "onnxruntime", ORT, 45),
    # 3. The C core under memcheck: what needs no ONNX Runtime first, because the sanitizer reports when it ends.
    Stage("core-memcheck", "the C core's replay loop under compute-sanitizer", "checks.core:check_replay", {},
          "memcheck", ("base",), 30),
    Stage("host-overhead", "stepping in C against stepping from Python", "checks.stepping:measure_host_overhead", {},
          "main", ("base",), 20),
    # torch.compile takes the longest to load and comes last: the others are measured by then.
    _measure_xl("xl-28-compiled", "XL/2: all contenders, torch.compile among them", RTX, 150, depth=28,
                modes=["default"], kinds=["rtx", "onnxruntime", "torch"], **SHORT),
    Stage("core-memcheck-lanes", "two lanes on ONNX Runtime under compute-sanitizer", "checks.core:check_lanes", {},
          "memcheck", ("base",), 60),
    # Those for which the day has time only where earlier ones end before their limits: 240 MiB, and XL/2 again.
    Stage("build-tensorrt", "plans of the sky, of tiny and of recorded models", "checks.plans:build_small", {},
          "tensorrt", TRT, 65, True),
    Stage("golden-tensorrt", "recorded rollouts", "checks.golden:check_golden",
          {"backend": "tensorrt", "precisions": ["fp16"]}, "tensorrt", TRT, 15),
    Stage("rollout-tensorrt", "1,000 autoregressive steps", "checks.rollout:check_rollout", {"backend": "tensorrt"},
          "tensorrt", TRT, 35),
    Stage("weights-4", "XL/2, depth 4: its weights", "full_size.xl:make_weights_of", {"depth": 4},
          "main", ("base",), 10, True),
    _measure_xl("xl-4", "XL/2, depth 4: ONNX Runtime against torch.compile", ORT, 120, depth=4, modes=["default"],
                kinds=["onnxruntime", "torch"], uncached="eager"),
)  # fmt: skip


def choose_stages(names: Sequence[str] | None) -> list[Stage]:
    """Return the stages by name, in their own order; all of them where none is named.

    Raises:
        ValueError: A name is unknown.
    """
    known = {stage.name: stage for stage in STAGES}
    for name in names or ():
        if name not in known:
            raise ValueError(f"no stage {name!r}; known are {', '.join(known)}")
    return [stage for stage in STAGES if not names or stage.name in names]


def left_to_run(stages: Sequence[Stage], ended: Callable[[str], bool]) -> list[Stage]:
    """Return what a fresh machine must run: stages that did not end, and those whose files they need."""
    last = max((at for at, stage in enumerate(stages) if not ended(stage.name)), default=-1)
    return [stage for stage in stages[: last + 1] if not ended(stage.name) or stage.on_machine]
