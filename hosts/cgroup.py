"""The control groups of this process: they limit the memory and the CPUs of a container."""

from __future__ import annotations

from pathlib import Path

__all__ = ["cgroup_folders", "read_text"]


def cgroup_folders(controller: str, root: Path = Path("/")) -> list[Path]:
    """Return the folders of the groups that limit this process, the innermost first.

    A group is limited by all groups around it, so every folder counts. In a container the path in ``/proc`` may be the
    host's; of such a path only the folders that exist here are returned.

    Args:
        controller: "memory" or "cpu".
        root: Where ``proc`` and ``sys`` are.
    """
    folders: list[Path] = []
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue  # of version 1, and another controller's; version 2 names none
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        names = [name for name in path.split("/") if name]
        folders += [mount.joinpath(*names[:depth]) for depth in range(len(names), -1, -1)]
    return [folder for folder in folders if folder.is_dir()]


def read_text(path: Path) -> str:
    """Return the content of a file of the kernel, stripped; empty where it is missing or may not be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
