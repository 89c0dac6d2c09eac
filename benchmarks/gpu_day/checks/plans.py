"""Builds TensorRT plans and records what that took; graphs were lowered where onnx is, this interpreter may lack it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..running.record import Missing, Recorder
from ..running.settings import ROOT, Settings, child_command, need_gpu

__all__ = ["build_bundle", "build_small", "has_engine", "place_bundle"]

# For one bundle's plans; the stage has a limit too.
BUNDLE_LIMIT_S = 60
# The models of the long rollouts come first, then the recorded cases from the plainest on.
FIRST = ("sky", "tiny", "tiny_uncond-8-25", "tiny_text-4-13", "tiny_rope-8-25")


def build_small(settings: Settings, record: Recorder) -> None:
    """Build the plans of every small bundle that is there, each in a process and a time of its own.

    One that fails, crashes or takes too long leaves the others.
    """
    need_gpu(settings, also_rehearsing=True)
    names = {path.parent.name for path in Path(settings.bundles).glob("*/model.json")} | {"sky"}
    ordered = [name for name in FIRST if name in names] + sorted(names - set(FIRST))
    failed = 0
    for name in ordered:
        try:
            folder = place_bundle(settings, name)
        except Missing as missing:
            failed += 1
            record.missing(f"plans of {name}", str(missing))
            continue
        failed += not build_apart(settings, record, name, folder, BUNDLE_LIMIT_S)
    if failed == len(ordered):
        raise RuntimeError("no bundle could be built; see the records")


def build_apart(settings: Settings, record: Recorder, name: str, folder: Path, limit_s: float) -> bool:
    """Build a bundle's plans in a process of its own; return whether they were built. Its records go where ours do."""
    arguments = json.dumps({"name": name, "folder": str(folder)})
    command = child_command(settings, "tensorrt", "--plans", arguments, "--records", str(record.path))
    status = run_limited(command, limit_s)
    if status is None:
        record.add(f"plans of {name}, ended", 1, most=0, error=f"not built within {limit_s:.0f} s")
    elif status < 0:
        record.add(f"plans of {name}, failed", 1, most=0, error=f"the builder's process was ended by signal {-status}")
    return status == 0


def run_limited(command: Sequence[str], limit_s: float) -> int | None:
    """Run a command and return its status, None where it was ended because it took too long."""
    # In our session, so that it ends with the stage.
    process = subprocess.Popen(command)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()
        process.wait()


def build_bundle(settings: Settings, record: Recorder, *, name: str, folder: str) -> None:
    """Build a bundle's plans in this process, and record why where that fails."""
    try:
        _build(Path(folder), name, settings, record)
    except Exception as error:
        record.add(f"plans of {name}, failed", 1, most=0, error=f"{type(error).__name__}: {error}"[:1500])
        raise


def place_bundle(settings: Settings, name: str) -> Path:
    """Return a copy of a small bundle that engines may be written into.

    Raises:
        Missing: It is nowhere.
    """
    target = Path(settings.work) / "bundles" / name
    if not target.is_dir():
        source = Path(settings.bundles) / name
        if name == "sky" and not source.is_dir():
            source = ROOT / "examples" / "sky" / "bundle"
        if not (source / "model.json").is_file():
            raise Missing(f"no bundle {source}; the base kit carries it")
        shutil.copytree(source, target)
    return target


def has_engine(folder: Path) -> bool:
    """Whether any engine was built for a bundle."""
    return any(folder.glob("engines/*/manifest.json"))


def _build(folder: Path, name: str, settings: Settings, record: Recorder) -> None:
    from vdmrt.bundle import open_bundle
    from vdmrt.engines import BuildOptions, build_engines
    from vdmrt.errors import EngineError

    started = time.perf_counter()

    def say(line: str) -> None:
        seconds = time.perf_counter() - started
        print(f"{seconds:7.1f} s  {line}", file=sys.stderr, flush=True)
        if ": built in " in line:  # kept at once: the next plan may be the one that is killed
            record.note(f"plans of {name}, as they come", message=line, after_s=round(seconds, 1))

    def build(constraints: Any) -> Any:
        options = BuildOptions(timing_cache=Path(settings.work) / "timing.cache", precision_constraints=constraints)
        return build_engines(open_bundle(folder), precision="fp16", options=options, progress=say)

    try:
        engine = build("obey")
    except EngineError as error:
        # 8.5 may have no kernel for a layer in the type that the graph asks for.
        record.note(f"plans of {name} with types obeyed", error=str(error)[:1500])
        engine = build("prefer")
    _record_plans(engine.manifest, name, time.perf_counter() - started, record)


def _record_plans(manifest: Any, name: str, seconds: float, record: Recorder) -> None:
    for stage, plan in manifest.plans.items():
        details: dict[str, Any] = {"plan_nbytes": plan.file.nbytes, "scratch_nbytes": plan.scratch_nbytes}
        if plan.audit is not None:
            details |= {"layers": plan.audit.layers, "products": plan.audit.products}
            details["cache_copy_nbytes"] = sum(copy.nbytes for copy in plan.audit.cache_copies)
        record.add(f"plan of {name} {stage}, build", plan.build_seconds, "s", **details)
    record.add(
        f"plans of {name}, all of it",
        seconds,
        "s",
        tensorrt=manifest.machine.tensorrt,
        key=manifest.key,
        options=manifest.options,
    )
