"""Snapshots are written whole or not at all, and over nothing but regular files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vdmrt.errors import SessionError
from vdmrt.runtime.session.session_settings import SessionSettings
from vdmrt.runtime.session.snapshot import Snapshot

SETTINGS = SessionSettings(3, "ddim", 2, None, None, 0.0, 1.0)
SNAPSHOT = Snapshot("fp32", "0" * 64, 4, 1, SETTINGS, {"cache": np.zeros((64, 64), np.float32)})
FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from test_runtime_snapshot_files import SNAPSHOT
from vdmrt.errors import SessionError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    SNAPSHOT.save(sys.argv[1])
except SessionError as error:
    print(error)
"""


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.mkdir(), "it is a folder; give the path of a file"),
        (os.mkfifo, "it is not a regular file; give another path"),
        (lambda path: path.symlink_to("/dev/full"), "it is not a regular file; give another path"),
    ],
)
def test_what_is_no_regular_file_is_refused(tmp_path: Path, make: Callable[[Path], None], sentence: str) -> None:
    path = tmp_path / "sky.snapshot"
    make(path)

    with pytest.raises(SessionError, match=f"sky.snapshot' cannot be written: {sentence}"):
        SNAPSHOT.save(path)

    assert [one.name for one in tmp_path.iterdir()] == ["sky.snapshot"] and not path.is_file()


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="cannot be written: there is no folder '.*/absent'; make it first"):
        SNAPSHOT.save(tmp_path / "absent" / "sky.snapshot")


def test_a_full_disk_leaves_the_earlier_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "sky.snapshot"
    path.write_bytes(b"earlier")
    command = [sys.executable, "-c", FULL_DISK, str(path), str(Path(__file__).parent)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120)

    assert (
        done.stdout == f"'{path}' cannot be written: the disk is full (File too large); nothing was left half written\n"
    )
    assert [one.name for one in tmp_path.iterdir()] == ["sky.snapshot"] and path.read_bytes() == b"earlier"


def test_the_umask_decides_who_may_read(tmp_path: Path, umask: None) -> None:
    path = SNAPSHOT.save(tmp_path / "sky.snapshot")

    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_keeps_pointing_at_its_file(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "sky.snapshot"
    target.write_bytes(b"earlier")
    link.symlink_to(target)

    assert SNAPSHOT.save(link) == link

    assert link.is_symlink() and target.stat().st_size > 64 * 64 * 4
