"""A stage: what it runs, in which interpreter, for how long; in a process of its own, so that a crash ends it alone."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .record import all_held, read_records
from .settings import Settings, child_command

__all__ = ["MISSING_STATUS", "Result", "Stage", "end_with_parent", "run_stage"]

Status = Literal["held", "missed", "missing", "failed", "timed out"]
# What a stage's process ends with when something it needs is not there.
MISSING_STATUS = 66
_POLL_S, _TAIL = 0.5, 3000
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Stage:
    """A part of the check.

    Attributes:
        name: As on the command line.
        what: What it shows, for ``--list``.
        run: Module and function, as ``golden:check_golden``; called with settings, recorder and ``arguments``.
        arguments: Keyword arguments of it.
        interpreter: Which Python runs it; see :class:`Settings`.
        kits: What must have been carried over before it can run; see carrying/kits.py.
        limit_s: After how long it is ended.
        on_machine: Whether what it makes are files for later stages, which are lost with the machine.
    """

    name: str
    what: str
    run: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    interpreter: Literal["main", "rtx", "onnxruntime", "tensorrt", "memcheck"] = "main"
    kits: tuple[str, ...] = ("base",)
    limit_s: float = 60
    on_machine: bool = False

    @property
    def full_size(self) -> bool:
        """Whether it needs the full-size model: its functions alone take a depth."""
        return "depth" in self.arguments or self.run.startswith("full_size.")


@dataclass(frozen=True)
class Result:
    """How a stage ended, and all that it recorded until then."""

    status: Status
    seconds: float
    why: str
    records: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return what is saved."""
        return {"status": self.status, "seconds": round(self.seconds, 1), "why": self.why, "records": self.records}


def run_stage(
    stage: Stage,
    settings: Settings,
    limit_s: float,
    log: Path,
    on_change: Callable[[list[dict[str, Any]]], None],
) -> Result:
    """Run a stage in a process of its own.

    Args:
        stage: What to run.
        settings: Handed on.
        limit_s: After how long the process and what it started are killed.
        log: What the process says is added to this file.
        on_change: Called with what was recorded so far, whenever that changes.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, log.open("ab") as sink:
        records = Path(folder) / "records"
        command = child_command(settings, stage.interpreter, "--stage", stage.name, "--records", str(records))
        sink.write(f"\n# {stage.name}\n".encode())
        sink.flush()
        started, said_from = time.monotonic(), log.stat().st_size
        try:
            # A group of its own, so that what the stage starts ends with it; and it ends when this process does.
            process = subprocess.Popen(command, stdout=sink, stderr=sink, process_group=0, preexec_fn=end_with_parent)
        except OSError as error:
            return Result("missing", 0.0, f"{command[0]} cannot be run: {error.strerror}", [])
        timed_out = _wait(process, records, started + limit_s, on_change)
        seconds, said = time.monotonic() - started, log.read_bytes()[said_from:].decode(errors="replace")[-_TAIL:]
        status, why = _judge(process.returncode, said, timed_out, limit_s)
        found = read_records(records)
        if status == "held" and not all_held(found):
            status = "missed"
        elif status == "held" and found and all("missing" in record for record in found):
            status, why = "missing", "everything that it would check"
        return Result(status, seconds, why, found)


def _wait(
    process: subprocess.Popen[bytes], records: Path, end: float, on_change: Callable[[list[dict[str, Any]]], None]
) -> bool:
    seen = 0
    try:
        while process.poll() is None:
            time.sleep(_POLL_S)
            found = read_records(records)
            if len(found) > seen:
                seen = len(found)
                on_change(found)
            if time.monotonic() > end:
                return True
        return False
    finally:
        _end(process)
        found = read_records(records)
        if len(found) > seen:  # of a stage that is cut off too
            on_change(found)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, even by a signal that nothing can catch."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a stage, its children too."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _judge(returncode: int, said: str, timed_out: bool, limit_s: float) -> tuple[Status, str]:
    if timed_out:
        return "timed out", f"no end after {limit_s:.0f} s; it last said: {said}"
    if returncode == 0:
        return "held", ""
    if returncode == MISSING_STATUS:
        return "missing", said.strip().splitlines()[-1] if said.strip() else "something is missing"
    if returncode < 0:
        return "failed", f"ended by signal {-returncode}; it last said: {said}"
    return "failed", said
