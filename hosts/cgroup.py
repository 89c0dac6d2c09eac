"""The control groups of this process: they limit the memory and the CPUs of a container."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cgroup_folders", "read_text"]


def cgroup_folders(controller: str, root: Path = Path("/")) -> list[Path]:
    """Return the folders of the groups that limit this process, innermost first.

    A group is limited by all groups around it, so all of them are returned. In a container the path in ``/proc`` may be
    the host's; only folders that exist in the container are returned.

    Args:
        controller: "memory" or "cpu".
        root: Parent folder of ``proc`` and ``sys``.
    """
    folders: list[Path] = []
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue  # another controller of version 1; version 2 names none
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        names = [name for name in path.split("/") if name]
        folders += [mount.joinpath(*names[:depth]) for depth in range(len(names), -1, -1)]
    return [folder for folder in folders if folder.is_dir()]


def read_text(path: Path) -> str:
    """Return the stripped content of a kernel file; empty if it is missing or cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
