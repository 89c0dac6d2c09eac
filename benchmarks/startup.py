"""Start-up time: ``import vdmrt`` over a bare interpreter, its first use (numpy), and ``vdmrt --help``.

Processes in turn, medians of 15. Exit status 1 when a limit is missed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable

from measuring import Gate, interleave, report

RUNS = 15
SCRIPTS = {
    "bare": "pass",
    "import": "import vdmrt",
    "first use": "import vdmrt; vdmrt.load",
    "help": "from vdmrt.cli import main; main(['--help'])",
}


def main() -> int:
    """Measure and report."""
    times = interleave({name: process(script) for name, script in SCRIPTS.items()}, RUNS)
    bare, imported, first_use, helped = (1e3 * statistics.median(times[name]) for name in SCRIPTS)
    gates = [
        Gate("import vdmrt over a bare interpreter, ms", imported - bare, most=150),
        Gate("vdmrt --help, ms", helped, most=300),
    ]
    return report("startup", {"runs": RUNS}, gates, {"bare_ms": bare, "first_use_ms": first_use})


def process(script: str) -> Callable[[], object]:
    """Return a function that runs a script in a new interpreter."""
    return lambda: subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
