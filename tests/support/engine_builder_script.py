"""Builds engines in a separate process: ``script BACKEND BUNDLE build``, ``script BACKEND BUNDLE kill TIMES SEED``.

TensorRT is the recorder. ``kill`` forks builders that each rebuild the engine, kills them at random moments, and prints
the engines found after each.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fake_cuda import enabled_fake_cuda
from tensorrt_recorder import install

from vdmrt.bundle import list_engines, open_bundle, read_plan, verify_engine_weights
from vdmrt.engines import build_engines, build_models

SECONDS = 0.1


def build_onnxruntime(path: Path, *, force: bool, said: list[str]) -> str:
    """Build ONNX Runtime's engine; return its key."""
    engine = build_models(open_bundle(path), precision="fp16", force=force, progress=said.append)
    said.append(f"plans built: {sum('optimized by' in line for line in said)}")
    return engine.manifest.key


def build(path: Path, *, force: bool, said: list[str]) -> str:
    """Build TensorRT's engine; return its key."""
    settings = {"gpu": "vdmrt fake GPU", "compute_capability": "9.0", "build_seconds": SECONDS}
    with enabled_fake_cuda(), install("11.4", **settings) as recorder:
        engine = build_engines(open_bundle(path), precision="fp16", force=force, progress=said.append)
        said.append(f"plans built: {len(recorder.named('build_serialized_network'))}")
    return engine.manifest.key


def found(path: Path) -> list[str]:
    """Return the keys of the engines that a run would find; raise if one of their plans is incomplete."""
    engines = list_engines(open_bundle(path))
    for engine in engines:
        for stage in engine.manifest.plans:
            read_plan(engine, stage)
            verify_engine_weights(engine, stage)
    return [engine.manifest.key for engine in engines]


def kill_at_random(builder: Callable[..., str], path: Path, times: int, seed: int) -> None:
    """Kill builders, one after the other."""
    moments = random.Random(seed)
    builder(path, force=True, said=[])  # imports the modules for all forked builders
    started = time.monotonic()
    builder(path, force=True, said=[])
    took = time.monotonic() - started
    for _ in range(times):
        child = os.fork()
        if child == 0:
            builder(path, force=True, said=[])
            os._exit(0)
        time.sleep(moments.uniform(0, took))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"killed": os.WIFSIGNALED(status), "found": found(path)}), flush=True)


def main() -> None:
    """Run the command line."""
    builder = {"tensorrt": build, "onnxruntime": build_onnxruntime}[sys.argv[1]]
    path, verb = Path(sys.argv[2]), sys.argv[3]
    if verb == "kill":
        kill_at_random(builder, path, int(sys.argv[4]), int(sys.argv[5]))
    else:
        said: list[str] = []
        key = builder(path, force=False, said=said)
        print(json.dumps({"key": key, "said": said}))


if __name__ == "__main__":
    main()
