"""The full size: CausalSTDiT2-XL/2 at 256 × 256 exports in FP16, and its results equal torch's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXPORT = """
import json, resource, sys
import torch
from vdmrt.bundle import FP16
from vdmrt.export import ExportOptions, export_bundle, load_config, random_model

config = load_config("CausalSTDiT2-XL/2", latent_size=(32, 32))
model = random_model(config, 0)
options = ExportOptions(precisions=(FP16,), prediction="v")
bundle = export_bundle(model, sys.argv[1], options, name="XL/2", random_weights=True)
print(json.dumps({
    "parameters": sum(parameter.numel() for parameter in model.parameters()),
    "peak_nbytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"""

COMPARE = """
import json, sys
import numpy as np
import torch, vdmrt
from vdmrt.export import load_config, random_model
from vdmrt.export.families.ca2vdm.graphs import DenoiseGraph
from vdmrt.runtime import Noise

rng = np.random.default_rng(0)
with vdmrt.load(sys.argv[1], verify=False) as model, model.session(seed=0, sampler="ddim", steps=1) as session:
    g = model.manifest.geometry
    session.start(rng.standard_normal((1, *g.latent_shape)).astype(np.float32))
    cache, _ = session.cache()
    lane = session.lane
    context = lane.cache.read_context(0)
    noisy = rng.standard_normal((g.chunk_frames, *g.latent_shape)).astype(np.float32)
    session.step(noise=Noise(initial=noisy))
    clean = lane.denoising.history(0)
    timestep, row = session.table.timesteps[0], session.table.coefficients[0]
    found = (clean - row[0] * noisy) / row[1]

# The reference computes in float32 with the weights rounded to FP16.
reference = random_model(load_config("CausalSTDiT2-XL/2", latent_size=(32, 32)), 0).use_half_weights().float()
graph = DenoiseGraph(reference, g)
named = {s.name: torch.zeros(s.shape, dtype=getattr(torch, s.dtype)) for s in graph.inputs}
named["latent"][0] = torch.from_numpy(noisy)
named["positions"][0] = torch.arange(1, 1 + g.chunk_frames)
named["slot_valid"][0, 0] = 1
for layer in range(g.layers):
    for part, name in enumerate("kv"):
        named[f"past_{name}.{layer}"][:] = torch.from_numpy(cache[layer, part].astype(np.float32))
        named[f"context_{name}.{layer}"][:] = torch.from_numpy(context[layer, part].astype(np.float32))
with torch.inference_mode():
    wanted = graph.predict(named, torch.tensor([float(timestep)]))[0, :, : g.latent_channels].numpy()
print(json.dumps({"relative_error": float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))}))
"""


@pytest.mark.slow
def test_xl_2_exports_within_16_gib_and_one_step_equals_torch(tmp_path: Path) -> None:
    exported = run(EXPORT, tmp_path / "bundle")
    assert 600e6 < exported["parameters"] < 800e6
    assert exported["peak_nbytes"] <= 16 * 2**30, f"{exported['peak_nbytes'] / 2**30:.1f} GiB"
    print(f"export: {exported['peak_nbytes'] / 2**30:.1f} GiB at its peak")

    compared = run(COMPARE, tmp_path / "bundle")
    print(f"one step: relative error {compared['relative_error']:.2e}")
    assert compared["relative_error"] <= 5e-3


def run(script: str, bundle: Path) -> dict[str, float]:
    """Run a script in a separate process, to measure its memory."""
    done = subprocess.run([sys.executable, "-c", script, str(bundle)], capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
