"""Where the figures of a run come from: GPU, driver, commit."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .settings import ROOT

__all__ = ["COMMIT_FILE", "find_origin", "git_commit"]

# Carried with each call, because the tree on the device may come without its history.
COMMIT_FILE = "commit"
_TIMEOUT_S = 20


def find_origin(folders: Sequence[Path]) -> dict[str, str]:
    """Return "gpu", "driver" and "commit", as far as they are known here; ``folders`` are those that were carried."""
    said = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").splitlines()
    values = [value.strip() for value in said[0].split(",")] if said else []
    carried = next((folder / COMMIT_FILE for folder in folders if (folder / COMMIT_FILE).is_file()), None)
    commit = carried.read_text().strip() if carried else git_commit()
    found = {**dict(zip(("gpu", "driver"), values, strict=False)), "commit": commit}
    return {key: value for key, value in found.items() if value}


def git_commit() -> str:
    """Return the commit of the tree, empty where it has none."""
    return _output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*")


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
