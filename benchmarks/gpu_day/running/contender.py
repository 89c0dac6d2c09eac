"""A process that holds a loaded model and times a few denoising steps whenever it is asked.

Contenders need different interpreters and yet take turns in one run, so that a GPU that changes its clocks changes
them for all. One request is a line of JSON on standard input, one answer a line on what was standard output.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from typing import Any, Protocol

from .record import Missing
from .settings import Settings, child_command

__all__ = ["Contender", "Steps", "claim_stdout", "serve"]

_TAIL = 2000


class Steps(Protocol):
    """What a contender's process does."""

    runs: Any

    def ready(self) -> dict[str, Any]:
        """Return what the report keeps of the preparation."""
        ...

    def time(self, name: str, count: int) -> dict[str, list[float]]:
        """Run ``count`` steps; lists of milliseconds, ``ms`` among them."""
        ...


def serve(steps: Steps, notes: dict[str, Any], answers: Any) -> None:
    """Answer requests until standard input ends; ``notes`` are added to those of the steps."""
    _say(answers, {"runs": list(steps.runs), "notes": {**steps.ready(), **notes}})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            _say(answers, steps.time(request["run"], request["count"]))
        except Exception as error:  # the parent decides what a failure means
            _say(answers, {"error": f"{type(error).__name__}: {error}"})


def claim_stdout() -> Any:
    """Return standard output and point it at standard error, because libraries print to it."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


class Contender:
    """The parent's side.

    Attributes:
        name: For people.
        runs: What can be timed.
        notes: What the process said of its preparation.
    """

    def __init__(self, name: str, interpreter: str, settings: Settings, arguments: dict[str, Any]) -> None:
        self.name = name
        self.runs: list[str] = []
        self.notes: dict[str, Any] = {}
        self._log = tempfile.TemporaryFile("w+", errors="replace")
        command = child_command(settings, interpreter, "--contender", json.dumps(arguments))
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
        except OSError as error:
            raise Missing(f"{command[0]} cannot be run: {error.strerror}") from error
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def wait(self, limit_s: float) -> None:
        """Wait until the model is loaded.

        Raises:
            Missing: The process ended or did not answer.
        """
        answer = self._answer(limit_s)
        self.runs, self.notes = answer["runs"], answer["notes"]

    def time(self, run: str, count: int, limit_s: float) -> dict[str, list[float]]:
        """Time ``count`` steps; see :meth:`Steps.time`.

        Raises:
            Missing: The process ended, failed or did not answer.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"run": run, "count": count}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Missing(f"{self.name} has ended: {self._said()}") from error
        return self._answer(limit_s)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _answer(self, limit_s: float) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=limit_s)
        except queue.Empty:
            raise Missing(f"{self.name} did not answer within {limit_s:.0f} s: {self._said()}") from None
        if line is None:
            self._process.wait()
            raise Missing(f"{self.name} ended with status {self._process.returncode}: {self._said()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Missing(f"{self.name}: {answer['error']}")
        return answer

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def _said(self) -> str:
        self._log.flush()
        self._log.seek(0)
        return self._log.read()[-_TAIL:].strip()


def _say(answers: Any, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()
