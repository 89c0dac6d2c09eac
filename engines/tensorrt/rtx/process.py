"""Builds of TensorRT for RTX in a process of their own, so that the same graph gives the same plan.

The order of some tables in a plan follows the addresses of objects in memory, so that it depends on everything that
the process did before. A new process also returns the builder's memory, ends at once when it is interrupted, and takes
nothing along if the system kills it for lack of memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .... import errors
from ....bundle import encode
from ....errors import BackendError
from ...progress import heartbeat

if TYPE_CHECKING:
    from ..job import BuildJob
    from ..lowering import GraphSource

__all__ = ["build_in_process"]

_WORKER = "from vdmrt.engines.tensorrt.rtx.worker import main; main()"


def build_in_process(job: BuildJob, stage: str, source: GraphSource, plan: Path) -> dict[str, Any]:
    """Build a stage's plan into a file, and return its ``scratch_nbytes`` and the ``inspection`` of its layers.

    Raises:
        BackendError: The parser or the builder refuses, or the process ended; the message has the reason.
        EngineError: The graph differs from model.json.
        KeyboardInterrupt: The build was interrupted; the process has ended.
        OSError: The plan cannot be written.
    """
    request = {
        "stage": stage,
        "precision": str(job.precision),
        "graph": encode(job.graphs[stage]),
        "source": source.path.name,
        "options": dataclasses.asdict(dataclasses.replace(job.options, timing_cache=None)),
        "plan": str(plan.resolve()),
    }
    with heartbeat(stage, job.progress), _start(source.path.parent) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()  # and stays open: the worker ends when its parent does
        try:
            for message in _messages(process):
                if "progress" not in message:
                    return _result(message)
                job.progress(message["progress"])
        finally:
            process.kill()
    code = process.wait()
    raise BackendError(f"{stage}: the process that builds ended with {_describe(code)}; is there enough memory?")


def _start(folder: Path) -> subprocess.Popen[str]:
    """Start a worker in the folder of the graphs, whose paths are then the same wherever the bundle is."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the parent, which then kills it
    )


def _messages(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


def _result(message: dict[str, Any]) -> dict[str, Any]:
    failure = message.get("error")
    if failure is None:
        return message
    if failure == "OSError":
        raise OSError(message["errno"], os.strerror(message["errno"]))
    raise getattr(errors, failure)(message["message"])


def _describe(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"
