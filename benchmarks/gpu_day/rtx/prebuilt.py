"""Builds the plans that travel; a process of its own, because the module must be for this interpreter.

python -m vdmrt.benchmarks.gpu_day.rtx.prebuilt CASES
"""

from __future__ import annotations

import sys
from pathlib import Path

from .cases import find_cases
from .module import import_rtx

__all__ = ["build_plans"]

TARGETS = ("SM80", "SM89")
LARGE_NBYTES = 4 << 20


def build_plans(folder: Path) -> None:
    """Build plans of each case: one for every GPU, one for each of the targets; large ones are left to the device."""
    rtx = import_rtx()
    for case in find_cases(folder):
        plan = rtx.build(str(case.graph))
        if len(plan) > LARGE_NBYTES:
            continue
        (folder / case.name / "any.plan").write_bytes(plan)
        for target in TARGETS:
            (folder / case.name / f"{target}.plan").write_bytes(rtx.build(str(case.graph), [target]))


if __name__ == "__main__":
    build_plans(Path(sys.argv[1]))
