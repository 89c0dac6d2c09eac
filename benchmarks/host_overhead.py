"""Host time of a denoising step: stepping in the C core compared with stepping from Python.

Runs on a GPU if there is one, otherwise with the fake driver of tests/fake_cuda; then the real driver's share is
missing, as the results state. Results go to ``results/host_overhead.json``. Exit status 1 when a limit is missed.

    python3 benchmarks/host_overhead.py
"""

from __future__ import annotations

import datetime
import json
import platform
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from vdmrt.benchmarks.gpu_day.checks.stepping import measure_host_overhead
from vdmrt.benchmarks.gpu_day.running.record import Missing, Recorder, all_held, read_records
from vdmrt.benchmarks.gpu_day.running.report import line_of
from vdmrt.benchmarks.gpu_day.running.settings import Settings, need_gpu

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "host_overhead.json"


def main() -> int:
    """Measure and report."""
    settings = Settings("cuda:0", False, "", "", "", "", "", None, {})
    with tempfile.TemporaryDirectory() as folder:
        fake: Any = nullcontext()
        try:
            need_gpu(settings)
            device = "GPU"
        except Missing as missing:
            device = f"the fake driver ({str(missing).partition(':')[0]}), so without the real driver's own share"
            fake = fake_driver()
        records = Path(folder) / "records"
        with fake:
            measure_host_overhead(settings, Recorder(records), busy=device == "GPU")
        found = read_records(records)
    print(f"on {device}")
    for record in found:
        print(line_of(record))
    document = {
        "date": datetime.date.today().isoformat(),
        "machine": {"python": platform.python_version(), "device": device},
        "records": found,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if all_held(found) else 1


def fake_driver() -> Any:
    """Return a context in which the fake driver simulates a machine with a GPU."""
    sys.path.insert(0, str(HERE.parent / "tests" / "support"))
    from fake_cuda import enabled_fake_cuda

    return enabled_fake_cuda()


if __name__ == "__main__":
    sys.exit(main())
