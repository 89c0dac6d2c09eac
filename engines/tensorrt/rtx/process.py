"""Builds of TensorRT for RTX in a process of their own, so that the same graph gives the same plan.

The order of some tables in a plan follows the addresses of objects in memory, so that it depends on everything that
the process did before. A new process also returns the builder's memory, ends at once when it is interrupted, and takes
nothing along if the system kills it for lack of memory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .... import errors
from ....bundle import encode
from ....errors import BackendError
from ...progress import heartbeat

if TYPE_CHECKING:
    from ...progress import Progress
    from ..job import BuildJob
    from ..lowering import GraphSource

__all__ = ["build_in_process"]

# Without the folder that it is started in, which may contain any file.
_WORKER = (
    "import sys; sys.path[:] = [path for path in sys.path if path]; "
    "from vdmrt.engines.tensorrt.rtx.worker import main; main()"
)


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
        "source": str(source.path.resolve()),
        "options": dataclasses.asdict(dataclasses.replace(job.options, timing_cache=None)),
        "plan": str(plan.resolve()),
    }
    with heartbeat(stage, job.progress), _start() as process:
        try:
            result = _exchange(process, json.dumps(request) + "\n", job.progress)
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if result is None:
        raise BackendError(f"{stage}: the process that builds ended with {_describe(code)}")
    _raise_failure(result)
    return result


def _start() -> subprocess.Popen[str]:
    paths = [os.path.abspath(path or os.curdir) for path in sys.path]
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"},
        start_new_session=True,  # Ctrl-C is for the parent, which then kills it
    )


def _exchange(process: subprocess.Popen[str], request: str, progress: Progress) -> dict[str, Any] | None:
    """Send the request, report progress, and return the last message; None if the process ended without one."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(request)
        process.stdin.flush()  # and stays open: the worker ends when its parent does
        for line in process.stdout:
            message: dict[str, Any] = json.loads(line)
            if "progress" not in message:
                return message
            progress(message["progress"])
    except (BrokenPipeError, ValueError):  # it ended before it read or wrote a whole line
        return None
    return None


def _raise_failure(result: dict[str, Any]) -> None:
    """Raise the exception that ended the worker, if one did."""
    failure = result.get("error")
    if failure == "OSError":
        raise OSError(result["errno"], result["message"])
    if failure is not None:
        raise getattr(errors, failure)(result["message"])


def _describe(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "signal 9, as the system ends a process that takes more memory than there is; free some, or build on a "
            "larger machine"
        )
    return f"signal {-code}" if code < 0 else f"exit status {code}; its messages are on stderr"
