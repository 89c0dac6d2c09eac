"""Available memory, by the system and by control groups of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdmrt.errors import ExportError
from vdmrt.hosts import available_nbytes, require_memory

GIB = 2**30


def machine(root: Path, files: dict[str, str]) -> Path:
    """Write kernel files below ``root``, of a machine with 8 GiB available."""
    for name, text in {"proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_without_a_control_group_the_system_is_the_limit(tmp_path: Path) -> None:
    assert available_nbytes(machine(tmp_path, {})) == 8 * GIB


def test_a_group_of_version_2_is_the_limit_and_file_cache_is_free(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pod/app",
        "sys/fs/cgroup/pod/app/memory.max": str(4 * GIB),
        "sys/fs/cgroup/pod/app/memory.current": str(3 * GIB),
        "sys/fs/cgroup/pod/app/memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file 7\nfile {2 * GIB}",
    }

    assert available_nbytes(machine(tmp_path, files)) == 2 * GIB + 7


def test_a_group_of_version_1_is_the_limit(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/a",
        "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(2 * GIB),
        "sys/fs/cgroup/memory/a/memory.usage_in_bytes": str(GIB),
        "sys/fs/cgroup/memory/a/memory.stat": "active_file 1\ntotal_active_file 2\ntotal_inactive_file 3",
    }

    assert available_nbytes(machine(tmp_path, files)) == GIB + 5


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_a_group_without_a_limit_has_the_limit_of_its_parent(tmp_path: Path, limit: str) -> None:
    files = {
        "proc/self/cgroup": "0::/pod/app",
        "sys/fs/cgroup/pod/app/memory.max": limit,
        "sys/fs/cgroup/pod/app/memory.current": "0",
        "sys/fs/cgroup/pod/memory.max": str(3 * GIB),
        "sys/fs/cgroup/pod/memory.current": "0",
    }

    assert available_nbytes(machine(tmp_path, files)) == 3 * GIB


def test_a_container_that_sees_the_path_of_the_host_uses_its_own_mount(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/docker/0123",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GIB // 2),
    }

    assert available_nbytes(machine(tmp_path, files)) == GIB // 2


def test_a_group_above_its_limit_leaves_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/memory.max": str(GIB),
        "sys/fs/cgroup/memory.current": str(2 * GIB),
    }

    assert available_nbytes(machine(tmp_path, files)) == 0


def test_this_machine_has_available_memory() -> None:
    assert 2**20 < available_nbytes() < 2**60


def test_too_much_memory_is_refused_with_both_numbers() -> None:
    with pytest.raises(ExportError, match=r"a star needs 1024 TiB of memory, and the host has [\d.]+ \wiB available"):
        require_memory(2**50, "a star", "go away", fail=ExportError)


def test_memory_of_another_place_is_compared_with_what_is_free_there() -> None:
    require_memory(2**20, "a page", "go away", fail=ExportError, place="cuda:0", free_nbytes=2**20)

    with pytest.raises(ExportError, match="a page needs 1 MiB of memory, and cuda:0 has 512 KiB available; go away"):
        require_memory(2**20, "a page", "go away", fail=ExportError, place="cuda:0", free_nbytes=2**19)
