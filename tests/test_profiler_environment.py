"""The environment of a profile is read without side effects."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdmrt.profiler.measuring.environment import _find_commit


def test_git_takes_no_lock_for_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = tmp_path / "git"
    git.write_text('#!/bin/sh\necho "$@"\n')
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert (_find_commit() or "").startswith("--no-optional-locks -C ")
