"""What only a GPU can show, in one command from a checkout and without a network; JSON out, a table last.

Each stage runs in a process of its own and under its own time limit, and what it measured is saved as it comes: a
crash, a hang or a missing library ends that stage alone, and the table says so. What the stages said stands beside
the results, in a file that ends in .log, and the table in one that ends in .txt. Exit status 0 when everything that
ran held, 1 when a figure was missed or a stage failed, 3 when nothing could be run.

    python3 benchmarks/gpu_check.py --list
    python3 benchmarks/gpu_check.py --stages environment,ceilings,torch-4 --out results.json
    python3 benchmarks/gpu_check.py --rehearse --golden tests/data/golden --bundles bundles --xl xl   # no GPU needed

TensorRT and ONNX Runtime may live in interpreters of their own: --tensorrt-python, --onnxruntime-python.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from gpu.contender import claim_stdout, make_steps, serve
from gpu.record import Missing, Recorder
from gpu.report import Report
from gpu.settings import ROOT, Settings
from gpu.stage import MISSING_STATUS, Stage, link_package, run_stage

# The slowest to compile stands in a stage of its own.
TORCH_MODES, SLOW_MODES, FEW_MODES = ["default", "reduce-overhead"], ["max-autotune-no-cudagraphs"], ["default"]

STAGES = (
    Stage("environment", "GPU, driver, clocks", "environment:describe_machine", limit_s=60),
    Stage(
        "main-python", "what Python with torch has", "environment:describe_interpreter", {"role": "main"}, limit_s=90
    ),
    Stage(
        "onnxruntime-python",
        "what Python with ONNX Runtime has",
        "environment:describe_interpreter",
        {"role": "onnxruntime"},
        "onnxruntime",
        limit_s=90,
    ),
    Stage(
        "tensorrt-python",
        "what Python with TensorRT has",
        "environment:describe_interpreter",
        {"role": "tensorrt"},
        "tensorrt",
        limit_s=90,
    ),
    Stage("ceilings", "matrix products and copies at their best", "ceilings:measure_ceilings", limit_s=120),
    Stage("host-overhead", "stepping in C against stepping from Python", "stepping:measure_host_overhead", limit_s=90),
    Stage(
        "golden-onnxruntime",
        "recorded rollouts through ONNX Runtime",
        "golden:check_golden",
        {"backend": "onnxruntime", "precisions": ["fp32", "fp16"]},
        "onnxruntime",
        limit_s=240,
    ),
    Stage(
        "rollout-onnxruntime",
        "1,000 autoregressive steps through ONNX Runtime",
        "rollout:check_rollout",
        {"backend": "onnxruntime"},
        "onnxruntime",
        limit_s=240,
    ),
    Stage(
        "build-golden",
        "TensorRT plans of the recorded models, of tiny and of the sky",
        "plans:build_small",
        {},
        "tensorrt",
        limit_s=540,
    ),
    Stage(
        "golden-tensorrt",
        "recorded rollouts through TensorRT",
        "golden:check_golden",
        {"backend": "tensorrt", "precisions": ["fp16"]},
        "tensorrt",
        limit_s=240,
    ),
    Stage(
        "rollout-tensorrt",
        "1,000 autoregressive steps through TensorRT",
        "rollout:check_rollout",
        {"backend": "tensorrt"},
        "tensorrt",
        limit_s=240,
    ),
    Stage("weights-4", "XL/2, depth 4: its weights", "xl:make_weights_of", {"depth": 4}, limit_s=120),
    Stage(
        "torch-4",
        "XL/2, depth 4, in torch alone, also without the cache",
        "xl:measure_torch",
        {"depth": 4, "modes": TORCH_MODES},
        limit_s=400,
    ),
    Stage("build-xl-4", "XL/2, depth 4: its plans", "plans:build_full_size", {"depth": 4}, "tensorrt", limit_s=540),
    Stage(
        "xl-4", "XL/2, depth 4: all contenders in turn", "xl:measure_xl", {"depth": 4, "modes": FEW_MODES}, limit_s=400
    ),
    Stage("weights-28", "XL/2: its weights", "xl:make_weights_of", {"depth": 28}, limit_s=180),
    Stage(
        "build-xl-28",
        "XL/2: its plans",
        "plans:build_full_size",
        {"depth": 28},
        "tensorrt",
        limit_s=570,
        after="build-xl-4",
    ),
    Stage(
        "xl-28",
        "XL/2: all contenders in turn",
        "xl:measure_xl",
        {"depth": 28, "modes": FEW_MODES},
        limit_s=570,
        after="xl-4",
        after_s=240,
    ),
    Stage(
        "torch-autotuned-4",
        "XL/2, depth 4, in torch compiled with autotuning: minutes",
        "xl:measure_torch",
        {"depth": 4, "modes": SLOW_MODES, "uncached": False},
        limit_s=500,
    ),
)


def main() -> int:
    """Run what was asked for."""
    arguments = parse_arguments()
    if arguments.list:
        for stage in STAGES:
            print(f"{stage.name:<20} {stage.what} (at most {stage.limit_s:.0f} s)")
        return 0
    if arguments.child or arguments.contender or arguments.plans:
        return run_child(arguments)
    settings = make_settings(arguments)
    asked = arguments.stages.split(",") if arguments.stages else None
    report = Report(Path(arguments.out), settings)
    chosen = choose_stages(asked)
    end = time.monotonic() + arguments.time_limit if arguments.time_limit else None
    for stage in chosen:
        run_one(stage, settings, report, end, asked=asked is not None)
    print(f"\nresults in {report.path}")
    for line in report.lines(stage.name for stage in chosen):
        print(line)
    statuses = {report.document["stages"][stage.name]["status"] for stage in chosen}
    if statuses <= {"missing"}:
        return 3
    return 0 if statuses <= {"held", "missing"} else 1


def choose_stages(asked: list[str] | None) -> list[Stage]:
    """Return the stages by name, in their own order; all of them where none is named."""
    known = {stage.name: stage for stage in STAGES}
    for name in asked or ():
        if name not in known:
            raise SystemExit(f"gpu_check.py: no stage {name!r}; known are {', '.join(known)}")
    return [stage for stage in STAGES if asked is None or stage.name in asked]


def run_one(stage: Stage, settings: Settings, report: Report, end: float | None, *, asked: bool) -> None:
    """Run a stage, or note why it was not run."""
    from gpu.stage import Result

    left = stage.limit_s if end is None else min(stage.limit_s, end - time.monotonic())
    if left < 5:
        report.keep(stage.name, Result("missing", 0.0, "the time limit of the whole check was reached", []))
        return
    if not asked and stage.after is not None:
        took = report.seconds_held(stage.after)
        if took is None or took > stage.after_s:
            why = f"{stage.after} did not hold within {stage.after_s:.0f} s; name this stage to run it all the same"
            report.keep(stage.name, Result("missing", 0.0, why, []))
            return
    print(f"… {stage.name}: {stage.what}", file=sys.stderr, flush=True)
    result = run_stage(
        stage,
        settings,
        settings.interpreters[stage.interpreter],
        left,
        report.path.with_suffix(".log"),
        lambda found: report.keep(stage.name, found),
    )
    report.keep(stage.name, result)
    print(f"  {result.status} in {result.seconds:.0f} s {result.why[-300:]}", file=sys.stderr, flush=True)


def run_child(arguments: argparse.Namespace) -> int:
    """Be the process of a stage, of a contender, or of the builder of one bundle's plans."""
    settings = Settings.from_json(arguments.settings)
    link_package(Path(settings.work) / "package")
    try:
        if arguments.contender:
            answers = claim_stdout()
            serve(*make_steps(settings, json.loads(arguments.contender)), answers)
            return 0
        if arguments.plans:
            plans = importlib.import_module("gpu.plans")
            plans.build_bundle(settings, Recorder(Path(arguments.records)), **json.loads(arguments.plans))
            return 0
        stage = next(stage for stage in STAGES if stage.name == arguments.child)
        module, function = stage.run.split(":")
        run = getattr(importlib.import_module(f"gpu.{module}"), function)
        run(settings, Recorder(Path(arguments.records)), **stage.arguments)
    except Missing as error:
        print(error, file=sys.stderr)
        return MISSING_STATUS
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def make_settings(arguments: argparse.Namespace) -> Settings:
    """Return what the stages share."""
    interpreters = {
        "main": [sys.executable],
        "onnxruntime": shlex.split(arguments.onnxruntime_python),
        "tensorrt": shlex.split(arguments.tensorrt_python),
    }
    return Settings(
        device=arguments.device or ("cpu" if arguments.rehearse else "cuda:0"),
        rehearse=arguments.rehearse,
        golden=str(Path(arguments.golden).resolve()),
        bundles=str(Path(arguments.bundles).resolve()),
        xl=str(Path(arguments.xl).resolve()),
        work=str(Path(arguments.work).resolve()),
        reference=str(Path(arguments.reference).resolve()) if arguments.reference else None,
        interpreters=interpreters,
    )


def parse_arguments(argv: list[str] | None = None) -> Any:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--list", action="store_true", help="print the stages and end")
    add("--stages", help="names with commas between; all of them without this")
    add("--out", default="gpu_check.json", help="where the results go; stages that are there are kept")
    add("--time-limit", type=float, help="seconds after which no stage is started and the last one is ended")
    add("--device", help="the GPU; cuda:0, and cpu in a rehearsal, without this")
    add("--rehearse", action="store_true", help="run the same code on the CPU, in small, to find its errors")
    add("--golden", default=str(ROOT / "tests" / "data" / "golden"), help="folder of recorded cases")
    add("--bundles", default="bundles", help="folder of their bundles <case>-<chunk>-<slots>, and of tiny")
    add("--xl", default="xl", help="folder of the described full-size bundles xl-<depth>")
    add("--work", default=str(Path(tempfile.gettempdir()) / "vdmrt-gpu-check"), help="folder for gigabytes")
    add("--reference", help="results of this script whose golden errors TensorRT is held against")
    add("--onnxruntime-python", default=sys.executable, help="command of the Python that has onnxruntime")
    add("--tensorrt-python", default=sys.executable, help="command of the Python that has tensorrt")
    for name in ("--child", "--plans", "--records", "--settings", "--contender"):
        add(name, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
