"""Memory is flat: a thousand autoregressive steps allocate nothing after the first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
import numpy as np, psutil, vdmrt

with vdmrt.load(sys.argv[1], verify=False) as model, model.session(seed=0, sampler="ddpm", steps=1) as session:
    session.start(np.zeros((1, *model.manifest.geometry.latent_shape), np.float32))
    process, allocated, resident = psutil.Process(), [], []
    for _ in session.stream(1000):
        allocated.append(model.allocated_nbytes)
        resident.append(process.memory_info().rss)
print(json.dumps({"allocated": allocated, "resident": resident}))
"""


def test_a_thousand_steps_allocate_nothing_after_the_second(tiny_bundle: Path) -> None:
    """Run in a separate process, so that no other memory counts."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tiny_bundle)], capture_output=True, text=True, check=True, timeout=300
    )
    found = json.loads(done.stdout)

    assert len(set(found["allocated"])) == 1
    growth = max(found["resident"]) - found["resident"][1]
    assert growth <= 2**20, f"{growth / 2**20:.2f} MiB between step 2 and step 1,000"
