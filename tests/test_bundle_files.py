"""Atomic writing of files and folders."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vdmrt.bundle.storage.files import (
    PartFile,
    _exchange_in_turn,
    check_writable,
    explained_writing,
    is_part,
    link_or_copy,
    part_folder,
    replace_folder,
    replaced_file,
    write_error,
    write_file,
)
from vdmrt.errors import BundleError

KILLED = """
import os, pathlib, sys
from vdmrt.bundle.storage.files import PartFile, part_folder
target = pathlib.Path(sys.argv[1])
with part_folder(target) as folder:
    (folder / "half").write_text("half")
    PartFile(target).file.write(b"half")
    os._exit(9)
"""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    write_file(tmp_path / "report.json", "{}", fail=BundleError)

    assert (tmp_path / "report.json").read_text() == "{}"
    assert names_in(tmp_path) == ["report.json"]


def test_a_file_obeys_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "report.json", "{}", fail=BundleError)
    finally:
        os.umask(before)

    assert (tmp_path / "report.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("bad")])
def test_an_existing_file_survives_a_failure(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "report.json").write_text("old")

    with (
        pytest.raises((KeyboardInterrupt, ValueError)),
        replaced_file(tmp_path / "report.json", fail=BundleError) as file,
    ):
        file.write(b"new")
        raise error

    assert (tmp_path / "report.json").read_text() == "old"
    assert names_in(tmp_path) == ["report.json"]


def test_a_part_whose_writer_closed_the_file_is_discarded(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "clip.mp4")
    part.file.close()
    part.discard()

    assert names_in(tmp_path) == []


def test_a_kept_file_is_not_discarded(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "clip.mp4")
    part.keep()
    part.discard()

    assert names_in(tmp_path) == ["clip.mp4"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")

    write_file(tmp_path / "link", "text", fail=BundleError)

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "file").read_text() == "text"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing/report", "there is no folder '.*missing'; make it first"),
        ("folder", "it is a folder; give the path of a file"),
        ("fifo", "it is not a regular file; give another path"),
        ("file/report", "there is no folder"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(BundleError, match=f"'.*{name}' cannot be written: {reason}"):
        write_file(tmp_path / name, "text", fail=BundleError)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("out/clip",),
        ("out",),
        ("out/.clip.0123abcd.part",),
        ("out/.clip.0123abcd.part/model.json",),
        ("out/.clip.lock",),
        ("elsewhere", None, "out/.clip.0123abcd.part/copy"),
    ],
)
def test_a_write_error_raises_one_sentence(tmp_path: Path, names: tuple[str | None, ...]) -> None:
    paths = [None if name is None else str(tmp_path / name) for name in names]

    with (
        pytest.raises(BundleError, match="out/clip' cannot be written: the disk is full \\(full\\); nothing was left"),
        explained_writing(tmp_path / "out" / "clip", fail=BundleError),
    ):
        raise OSError(errno.ENOSPC, "full", *paths)


@pytest.mark.parametrize(
    "error",
    [
        InterruptedError(),
        OSError("no picture"),
        FileNotFoundError(errno.ENOENT, "missing", "/nonexistent/source"),
        FileNotFoundError(errno.ENOENT, "missing", "out/source"),
        PermissionError(errno.EACCES, "denied", "out/clip/weights.bin"),
        FileNotFoundError(errno.ENOENT, "missing", b"out/clip.config"),
    ],
)
def test_an_error_about_another_file_passes_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(OSError) as caught, explained_writing("out/clip", fail=BundleError):
        raise error

    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InterruptedError(), "InterruptedError"),
        (OSError("no picture"), "no picture"),
        (OSError(errno.EACCES, "denied"), "denied"),
    ],
)
def test_every_write_error_has_a_reason(error: OSError, reason: str) -> None:
    assert str(write_error("clip", error, BundleError)).startswith(f"'clip' cannot be written: {reason}; ")


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(BundleError, match="'/dev/full' cannot be written: it is not a regular file"):
        check_writable("/dev/full", fail=BundleError)

    assert not Path("/dev/full").is_file()


def test_parts_of_killed_writers_are_removed_by_the_next(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"
    done = subprocess.run([sys.executable, "-c", KILLED, str(target)], timeout=60)
    left = list(tmp_path.iterdir())

    write_file(target, "whole", fail=BundleError)

    assert done.returncode == 9
    assert len(left) == 2 and all(is_part(path) for path in left)
    assert names_in(tmp_path) == ["clip.mp4"]


def test_parts_of_living_writers_stay(tmp_path: Path) -> None:
    target = tmp_path / "clip.mp4"

    with part_folder(target) as folder, replaced_file(target, fail=BundleError) as file:
        write_file(target, "theirs", fail=BundleError)
        assert folder.is_dir()
        file.write(b"ours")

    assert target.read_bytes() == b"ours"
    assert names_in(tmp_path) == ["clip.mp4"]


def test_other_hidden_files_are_not_touched(tmp_path: Path) -> None:
    for name in (".clip.mp4.12345678.partial", ".other.mp4.12345678.part", ".clip.mp4.swp"):
        (tmp_path / name).touch()

    write_file(tmp_path / "clip.mp4", "text", fail=BundleError)

    assert len(names_in(tmp_path)) == 4


def test_a_folder_is_replaced_atomically(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with part_folder(tmp_path / "bundle") as folder:
            (folder / text).write_text(text)
            replace_folder(folder, tmp_path / "bundle")

    assert names_in(tmp_path / "bundle") == ["new"]
    assert names_in(tmp_path) == ["bundle"]


def test_an_unfinished_folder_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with pytest.raises(KeyboardInterrupt), part_folder(tmp_path / "bundle") as folder:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    assert names_in(tmp_path) == ["bundle"]
    assert names_in(tmp_path / "bundle") == []


def test_folders_are_renamed_in_turn_without_an_atomic_exchange(tmp_path: Path) -> None:
    for name in ("part", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"was {name}").touch()
    _exchange_in_turn(tmp_path / "part", tmp_path / "target")

    assert names_in(tmp_path) == ["part", "target"]
    assert names_in(tmp_path / "target") == ["was part"]


def test_a_failed_replacement_restores_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with pytest.raises(FileNotFoundError):
        _exchange_in_turn(tmp_path / "missing", tmp_path / "target")

    assert names_in(tmp_path) == ["target"]


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(BundleError, match="'/proc/self/page.html' cannot be written: .*; choose another place"):
        check_writable("/proc/self/page.html", fail=BundleError)


def test_a_check_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("old")
    check_writable(tmp_path / "page.html", fail=BundleError)

    assert names_in(tmp_path) == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "old"


def test_a_link_replaces_a_file_and_leaves_the_other_names_of_it(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).write_text(name)
    (tmp_path / "target").hardlink_to(tmp_path / "old")

    link_or_copy(tmp_path / "new", tmp_path / "target")

    assert [(tmp_path / name).read_text() for name in ("target", "old")] == ["new", "old"]
    assert (tmp_path / "target").samefile(tmp_path / "new")
