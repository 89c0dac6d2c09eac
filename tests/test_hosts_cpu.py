"""The number of CPUs that a process may use, and the check of a number of threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vdmrt.hosts import thread_count, usable_cpu_count

ALLOWED = len(os.sched_getaffinity(0))


def group(root: Path, line: str, files: dict[str, str]) -> Path:
    """Write a process's control group and its files below ``root``."""
    for name, text in {"proc/self/cgroup": line, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(("quota", "count"), [("50000 100000", 1), ("max 100000", ALLOWED), ("99000000 1000", ALLOWED)])
def test_a_quota_of_version_2_bounds_the_cpus(tmp_path: Path, quota: str, count: int) -> None:
    assert usable_cpu_count(group(tmp_path, "0::/a", {"sys/fs/cgroup/a/cpu.max": quota})) == count


@pytest.mark.parametrize(("quota", "count"), [("100000", 1), ("-1", ALLOWED)])
def test_a_quota_of_version_1_bounds_the_cpus(tmp_path: Path, quota: str, count: int) -> None:
    folder = "sys/fs/cgroup/cpu"
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}

    assert usable_cpu_count(group(tmp_path, "1:cpu,cpuacct:/of/the/host", files)) == count


def test_no_number_of_threads_is_one_for_each_cpu() -> None:
    assert thread_count(None) == thread_count(usable_cpu_count()) == usable_cpu_count()


@pytest.mark.parametrize("threads", [-1, 0, 100_000])
def test_threads_out_of_range_are_refused(threads: int) -> None:
    most = usable_cpu_count()

    with pytest.raises(ValueError, match=f"threads must be 1 <= threads <= {most}, the CPUs .*, got {threads}"):
        thread_count(threads)
