"""Builds the plans that travel; a process of its own, because the module must be for this interpreter.

python -m vdmrt.benchmarks.gpu_day.rtx.prebuilt CASES
"""

from __future__ import annotations

import sys
from pathlib import Path

from .cases import find_cases
from .module import import_rtx

__all__ = ["build_plans"]

TARGETS: dict[str, list[str]] = {"any": [], "SM80": ["SM80"], "SM89": ["SM89"]}


def build_plans(folder: Path) -> None:
    """Build the plans of the last case, a small one: for every GPU, and for each of the targets.

    A plan holds weights and several megabytes of kernels; the other cases' are built on the device, in seconds.
    """
    rtx = import_rtx()
    case = find_cases(folder)[-1]
    for name, targets in TARGETS.items():
        (folder / case.name / f"{name}.plan").write_bytes(rtx.build(str(case.graph), targets))


if __name__ == "__main__":
    build_plans(Path(sys.argv[1]))
