"""What INT8, FP8 and an INT8 cache cost the sky, against naive calibration; prints a table and writes figures.json.

Naive is what one gets without rollouts: random normals for every input, ranges by the largest value, nothing migrated
or corrected. The same layers are quantised.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

import vdmrt
from vdmrt.bundle import Geometry, open_bundle
from vdmrt.calibration.calibrating import CalibrationRequest, calibrate, publish, quantise
from vdmrt.calibration.data import CalibrationSet
from vdmrt.calibration.instrument import Instrument
from vdmrt.calibration.linears import find_linears, sites_of
from vdmrt.calibration.observation import Observation
from vdmrt.calibration.reference import reference_graphs
from vdmrt.calibration.verification import VerifyRequest, verify
from vdmrt.runtime.model import Model

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples" / "sky"))
from metrics import psnr  # noqa: E402  after the path that it is found on
from sky import Sky  # noqa: E402

CLIPS, CLIP_FRAMES, GIVEN, CHUNK = 8, 33, 9, 8
NAIVE_RUNS = 32
FIGURES = ("free-psnr", "teacher-psnr", "cache-relative-l2", "drift", "teacher-drift", "free-picture-psnr")


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("calibration-out"), show_default=True)
@click.option("--seeds", default=4, show_default=True, help="Free-running rollouts.")
@click.option("--chunks", default=20, show_default=True, help="Autoregressive steps of each.")
@click.option("--skies", default=32, show_default=True, help="Unseen skies for the PSNR against the truth.")
def main(work: Path, seeds: int, chunks: int, skies: int) -> None:
    """Calibrate copies of the sky's bundle and measure them."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "unseen").mkdir(exist_ok=True)
    np.save(work / "clips.npy", np.stack([Sky(5000 + place).frames(0, CLIP_FRAMES) for place in range(CLIPS)]))
    np.save(work / "unseen" / "skies.npy", np.stack([Sky(place).frames(0, GIVEN + CHUNK) for place in range(skies)]))
    figures: dict[str, dict[str, float]] = {}
    for name, bundle, precision in make_bundles(work):
        figures[name] = {"prediction-psnr": prediction_psnr(bundle, precision, skies)}
        request = VerifyRequest(
            bundle, precision, data=work / "unseen", chunks=chunks, seeds=seeds, gates={}, report=work / f"{name}.html"
        )
        figures[name] |= verify(request).accuracy.figures
        click.echo(f"| {name} | " + " | ".join(f"{figures[name][one]:.4g}" for one in ("prediction-psnr", *FIGURES)))
        (work / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def make_bundles(work: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield the name, the bundle and the precision of everything that is compared."""
    made, naive = work / "made", work / "naive"
    for copy in (made, naive):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(ROOT / "examples" / "sky" / "bundle", copy)
    click.echo("| | prediction-psnr | " + " | ".join(FIGURES))
    yield "fp16", made, "fp16"
    calibrate_naively(naive)
    yield "int8, naive", naive, "int8"
    given: dict[str, Any] = {"data": work / "clips.npy", "observations": work / "observations"}
    calibrate(CalibrationRequest(made, **given))
    yield "int8", made, "int8"
    calibrate(CalibrationRequest(made, precision="none", kv="int8", **given))
    yield "int8 cache", made, "fp16-kv8"
    calibrate(CalibrationRequest(made, precision="fp8", **given))
    yield "fp8", made, "fp8"
    shutil.copytree(made, work / "float-fill", dirs_exist_ok=True)
    calibrate(CalibrationRequest(work / "float-fill", keep_fill=True, **given))
    yield "int8, float fill", work / "float-fill", "int8"


def calibrate_naively(path: Path) -> None:
    """Quantise by the largest values that random inputs cause."""
    bundle = open_bundle(path)
    graphs = reference_graphs(bundle)
    linears = {stage: find_linears(graph) for stage, graph in graphs.items()}
    sites, seen, drawn = sites_of(linears.values()), Observation(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for stage, graph in graphs.items():
            instrument = Instrument(graph, linears[stage], sites, Path(folder))
            specs = bundle.manifest.graphs["fp16"][stage].inputs
            for _ in range(NAIVE_RUNS):
                shapes = {spec.name: spec.shape for spec in specs}
                instrument.observe(random_inputs(shapes, bundle.manifest.geometry, drawn), seen.activations[stage])
    request = CalibrationRequest(path, path, method="max", smooth=0.0)
    made = quantise(graphs, seen, request, rope=False)
    plain = {name: dataclasses.replace(one, correction={}) for name, one in made.linears.items()}
    nothing = CalibrationSet((), (), "random")
    publish(bundle, graphs, dataclasses.replace(made, linears=plain), request, nothing, seen)


def random_inputs(shapes: dict[str, tuple[int, ...]], g: Geometry, drawn: np.random.Generator) -> dict[str, Any]:
    """Return random normals for every input, and what must be valid valid."""
    inputs: dict[str, Any] = {name: drawn.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    inputs["positions"] = drawn.integers(0, g.position_count, shapes["positions"]).astype(np.int32)
    inputs["slot_valid"] = np.ones(shapes["slot_valid"], np.float32)
    if "context_index" in shapes:
        inputs["context_index"] = np.arange(g.context_frames, dtype=np.int32)[None]
    if "step" in shapes:
        inputs["step"] = np.zeros(shapes["step"], np.int32)
        inputs["timesteps"] = np.full(shapes["timesteps"], drawn.integers(0, 1000), np.float32)
    return inputs


def prediction_psnr(bundle: Path, precision: str, skies: int) -> float:
    """Return the mean PSNR against the truth of 8 pixel frames after 9 given ones, as evaluate.py has it."""
    with vdmrt.load(bundle, precision=precision) as model:
        return float(np.mean([predict(model, seed) for seed in range(skies)]))


def predict(model: Model, seed: int) -> float:
    """Return the PSNR of one sky."""
    clip = Sky(seed).frames(0, GIVEN + CHUNK)
    with model.session(seed=seed) as session:
        session.start(clip[:GIVEN])
        return psnr(session.step().pictures, clip[GIVEN:])


if __name__ == "__main__":
    main()
