"""Speed of INT8 on a CPU: a denoising step of a model of hidden size 384 and depth 12, compared with FP32, interleaved.

Two threads on each side, no spinning; the median of the ratios of 15 neighboring runs, at a full cache. Exit status 1
when the figure is missed.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import Gate, interleave, ratio, report

import vdmrt
from vdmrt.calibration.calibrating import CalibrationRequest, calibrate
from vdmrt.export import ExportOptions, export_bundle, load_config, random_model
from vdmrt.runtime import Chunk, Session

THREADS, RUNS = 2, 15
CHUNK, SLOTS, LATENT = 8, 25, (16, 16)
PRECISIONS = ("fp32", "int8", "fp32-kv8", "int8-kv8")


def main() -> int:
    """Export, calibrate and measure."""
    model = random_model(load_config("CausalSTDiT2-S/2", latent_size=LATENT), seed=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ExportOptions(prediction="v", chunk_frames=CHUNK, slots=SLOTS)
        bundle = export_bundle(model, folder / "bundle", options, name="S/2", random_weights=True).path
        latents = np.random.default_rng(0).standard_normal((1, SLOTS, 4, *LATENT)).astype(np.float32)
        np.save(folder / "latents.npy", latents)
        for precision, kv in (("int8", None), ("none", "int8"), ("int8", "int8")):
            calibrate(
                CalibrationRequest(
                    bundle, folder / "latents.npy", precision=precision, kv=kv, samples=3, steps=3,  # type: ignore[arg-type]
                    observations=folder, method="max", threads=THREADS,
                )
            )  # fmt: skip
        return measure(bundle, latents[0])


def measure(bundle: Path, latents: np.ndarray) -> int:
    """Time every precision in turn."""
    models = {one: vdmrt.load(bundle, precision=one, threads=THREADS) for one in PRECISIONS}
    sessions = {one: model.session(seed=1, sampler="ddim", steps=1) for one, model in models.items()}
    made: dict[str, list[Chunk]] = {one: [] for one in PRECISIONS}
    for session in sessions.values():
        session.start(latents)
    interleave({one: lambda one=one: step(sessions[one], made[one]) for one in PRECISIONS}, RUNS)  # type: ignore[misc]
    denoise = {one: [chunk.timings.denoise_ms[0] for chunk in made[one]][-RUNS:] for one in PRECISIONS}
    gates = [Gate("INT8 faster than FP32, a denoising step", ratio(denoise["fp32"], denoise["int8"]), least=1.4)]
    details = {f"{one}_denoise_ms": statistics.median(times) for one, times in denoise.items()}
    details |= {f"{one}_scatter_ms": statistics.median(c.timings.scatter_ms for c in made[one]) for one in PRECISIONS}
    details |= {f"{one}_cache_nbytes": float(sessions[one].cache()[0].nbytes) for one in PRECISIONS}
    for model in models.values():
        model.close()
    for name, value in details.items():
        print(f"{name}: {value:.4g}")
    settings = {"model": "CausalSTDiT2-S/2", "latent": LATENT, "chunk": CHUNK, "slots": SLOTS, "threads": THREADS,
                "runs": RUNS}  # fmt: skip
    return report("int8_speed", settings, gates, details)


def step(session: Session, made: list[Chunk]) -> None:
    """Generate a chunk and append it to ``made``."""
    made.append(session.step())


if __name__ == "__main__":
    sys.exit(main())
