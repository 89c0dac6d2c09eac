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
_LARGE_NBYTES = 4 << 20


def build_plans(folder: Path) -> None:
    """Build a plan for every GPU of each FP16 case; where it is small, also one for each of the targets.

    What is left out is built on the device, from the graph.
    """
    rtx = import_rtx()
    for case in find_cases(folder):
        if not case.name.endswith("fp16") or "int8" in case.name:
            continue
        plan = rtx.build(str(case.graph))
        (folder / case.name / "any.plan").write_bytes(plan)
        for target in TARGETS if len(plan) < _LARGE_NBYTES else ():
            (folder / case.name / f"{target}.plan").write_bytes(rtx.build(str(case.graph), [target]))


if __name__ == "__main__":
    build_plans(Path(sys.argv[1]))
