"""Accuracy of INT8, FP8 and a quantized cache on the sky, compared with float32 and with naive calibration.

The gates are those of the README's section on lower precision; results/calibration_sky.json has every curve. Exit
status 1 when a gate is missed. Results are kept in --work: a stopped run continues there, and a run with fewer --seeds
reports what has been measured so far.
Free-running drift is compared with that of FP16 from the same seeds, which adds errors at each step as 8 bits do.
Float32 with given latent frames that differ by a ten-thousandth shows how much the model amplifies one small error.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from measuring import Gate, report
from naive_calibration import calibrate_naively

import vdmrt
from vdmrt.bundle import FP16, FP32, Precision, open_bundle
from vdmrt.calibration.calibrating import CalibrationRequest, calibrate
from vdmrt.calibration.graph.quantization import quantization_of
from vdmrt.calibration.observe.data import read_set
from vdmrt.calibration.verify.comparison import (
    Comparison,
    Contender,
    Latents,
    compare_rollouts,
    given_frames,
)
from vdmrt.calibration.verify.reference import reference_bundle
from vdmrt.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from vdmrt.runtime.session.model import Model

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples" / "sky"))
from metrics import psnr  # noqa: E402  after the path that it is found on
from sky import Sky  # noqa: E402

CLIPS, CLIP_FRAMES, GIVEN, CHUNK = 8, 33, 9, 8
PERTURBATION = 1e-4
COLUMNS = ("truth", "free-psnr", "teacher-psnr", "drift", "teacher-drift")
CONTROL = "fp32, given frames off by 1e-4"
Figures = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Cost:
    """Time and peak memory of calibrating the demo's model in a separate process."""

    minutes: float
    gib: float


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("calibration-out"), show_default=True)
@click.option("--seeds", default=16, show_default=True, help="Rollouts.")
@click.option("--chunks", default=20, show_default=True, help="Autoregressive steps of each.")
@click.option("--skies", default=32, show_default=True, help="Unseen skies for the PSNR against the truth.")
@click.option("--threads", type=int, help="Threads of each graph; the figures do not depend on them.")
def main(work: Path, seeds: int, chunks: int, skies: int, threads: int | None) -> None:
    """Calibrate copies of the sky's bundle and measure them."""
    (work / "unseen").mkdir(parents=True, exist_ok=True)
    np.save(work / "clips.npy", np.stack([Sky(5000 + place).frames(0, CLIP_FRAMES) for place in range(CLIPS)]))
    unseen = max(skies, seeds)
    np.save(work / "unseen" / "skies.npy", np.stack([Sky(place).frames(0, GIVEN + CHUNK) for place in range(unseen)]))
    made, cost = make_bundles(work)
    say("predicting unseen skies")
    everything = {"fp32": (wide_bundle(work), FP32), **made}
    truth = {name: predicted(*one, work, skies, threads) for name, one in everything.items()}
    say("comparing rollouts")
    compared = compare(made, work, seeds, chunks, threads)
    figures: Figures = {name: {"truth": value} for name, value in truth.items()}
    for name, one in compared.items():
        figures[name] = {**figures.get(name, {}), **one.figures()}
    print_table(figures)
    settings = {"seeds": seeds, "chunks": chunks, "skies": skies, "perturbation": PERTURBATION}
    curves = {name: {"free": one.free, "teacher": one.teacher, "cache": one.cache} for name, one in compared.items()}
    # An FP8 cache has no limit: its error follows from three bits of mantissa.
    reported = {"fp8 cache: dB lost beside int8, teacher-forced": lost_by_cache(figures, "fp8")}
    for name, value in reported.items():
        print(f"{name}  {value:.3f}  without a limit")
    gates = judge(figures, cost)
    sys.exit(report("calibration_sky", settings, gates, {"reported": reported, "figures": figures, "curves": curves}))


def judge(figures: Figures, cost: Cost) -> list[Gate]:
    """Return every gate."""
    gates = []
    for name in ("int8", "fp8"):
        own, naive = figures[name], figures[f"{name}, naive"]
        gates += [
            Gate(f"{name}: dB of prediction lost", figures["fp32"]["truth"] - own["truth"], most=0.3),
            Gate(f"{name}: dB above naive, free-running", own["free-psnr"] - naive["free-psnr"], least=3.0),
            Gate(f"{name}: drift, free-running, over that of FP16", own["drift"] / figures["fp16"]["drift"], most=1.15),
            Gate(f"{name}: drift, teacher-forced", own["teacher-drift"], most=1.25),
        ]
    return [
        *gates,
        Gate("int8 cache: dB lost beside int8, teacher-forced", lost_by_cache(figures, "int8"), most=0.5),
        Gate("calibrating the demo, minutes", cost.minutes, most=5.0),
        Gate("calibrating the demo, GiB at the peak", cost.gib, most=4.0),
    ]


def lost_by_cache(figures: Figures, kind: str) -> float:
    """Return the loss by an 8 bit cache in addition to INT8 linears, in dB, teacher-forced."""
    return figures["int8"]["teacher-psnr"] - figures[f"int8 + {kind} cache"]["teacher-psnr"]


def make_bundles(work: Path) -> tuple[dict[str, tuple[Path, Precision]], Cost]:
    """Return bundle and precision of every contender, and the cost of the first calibration."""
    made, naive = work / "made", work / "naive"

    def make() -> dict[str, float]:
        for copy in (made, naive):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(ROOT / "examples" / "sky" / "bundle", copy)
        say("calibrating")
        cost = time_calibration(made, work / "clips.npy")
        given: dict[str, Any] = {"data": work / "clips.npy", "observations": work / "observations"}
        calibrate(CalibrationRequest(made, precision="fp8", **given))
        calibrate(CalibrationRequest(made, kv="int8", **given))
        calibrate(CalibrationRequest(made, kv="fp8", **given))
        calibrate_naively(naive, ("int8", "fp8"))
        return dataclasses.asdict(cost)

    cost = Cost(**kept(work / "cost.json", make))
    return {
        "fp16": (made, FP16),
        "int8, naive": (naive, Precision.parse("int8")),
        "int8": (made, Precision.parse("int8")),
        "int8 + int8 cache": (made, Precision.parse("int8-kv8")),
        "int8 + fp8 cache": (made, Precision.parse("int8-kvf8")),
        "fp8, naive": (naive, Precision.parse("fp8")),
        "fp8": (made, Precision.parse("fp8")),
    }, cost


def key_of(bundle: Path, precision: Precision, *further: object) -> str:
    """Return the key of a result, which changes with the graphs."""
    told = [open_bundle(bundle).manifest.graphs_sha256(precision), *map(str, further)]
    return hashlib.sha256(" ".join(told).encode()).hexdigest()[:12]


def kept(file: Path, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return the results in a file; measure and write them if it is missing."""
    if not file.exists():
        file.write_text(json.dumps(measure()), encoding="utf-8")
    found: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return found


def time_calibration(bundle: Path, data: Path) -> Cost:
    """Calibrate in a separate process, as a user does."""
    run = "import sys; from vdmrt.cli import main; sys.argv[0] = 'vdmrt'; main()"
    command = [sys.executable, "-c", run, "--quiet", "calibrate", str(bundle), "--data", str(data), "--accept-slower"]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"calibrating failed with exit status {os.waitstatus_to_exitcode(status)}")
    return Cost((time.perf_counter() - started) / 60, usage.ru_maxrss / 2**20)


def compare(
    made: dict[str, tuple[Path, Precision]], work: Path, seeds: int, chunks: int, threads: int | None
) -> dict[str, Comparison]:
    """Run every seed on every contender, one seed after the other; earlier results are read."""
    wide = wide_bundle(work)
    keys = {CONTROL: key_of(wide, "fp32", chunks, PERTURBATION)}
    with ExitStack() as stack:
        reference = stack.enter_context(Model(open_bundle(wide), OnnxRuntimeBackend(threads=threads), "fp32"))
        contenders = {CONTROL: Contender(reference, None, perturbed)}
        for name, (path, precision) in made.items():
            bundle = open_bundle(path)
            keys[name] = key_of(path, precision, chunks)
            cache = quantization_of(bundle, precision).cache
            model = stack.enter_context(Model(bundle, OnnxRuntimeBackend(threads=threads), precision))
            # Naive calibration is only measured free-running.
            contenders[name] = Contender(model, None if name.endswith("naive") else cache)
        given = given_frames(reference, list(read_set(work / "unseen", reference).clips), list(range(seeds)))
        by_seed = []
        for seed, first in enumerate(given):
            files = {name: work / f"seed-{seed}-{key}.json" for name, key in keys.items()}
            missing = {name: one for name, one in contenders.items() if not files[name].exists()}
            if missing:
                found = compare_rollouts(reference, missing, given=[first], seeds=[seed], chunks=chunks)
                for name, one in found.items():
                    plain = dataclasses.asdict(dataclasses.replace(one, frames=None))
                    files[name].write_text(json.dumps(plain), encoding="utf-8")
                say(f"rollout {seed + 1} of {seeds}")
            by_seed.append({name: Comparison(**json.loads(file.read_text("utf-8"))) for name, file in files.items()})
    return {name: Comparison.mean([one[name] for one in by_seed]) for name in contenders}


def perturbed(first: Latents) -> Latents:
    """Return given latent frames with a little noise."""
    noise = np.random.default_rng(1).standard_normal(first.shape).astype(np.float32)
    found: Latents = first + np.float32(PERTURBATION * float(np.std(first))) * noise
    return found


def wide_bundle(work: Path) -> Path:
    """Return the sky's bundle in float32."""
    return reference_bundle(open_bundle(ROOT / "examples" / "sky" / "bundle"), work / "wide").path


def predicted(bundle: Path, precision: Precision, work: Path, skies: int, threads: int | None) -> float:
    """Return the result of :func:`prediction_psnr`, measured now or earlier."""
    file = work / f"truth-{key_of(bundle, precision, skies)}.json"
    return kept(file, lambda: {"psnr": prediction_psnr(bundle, precision, skies, threads)})["psnr"]


def prediction_psnr(bundle: Path, precision: Precision, skies: int, threads: int | None) -> float:
    """Return the mean PSNR against the truth of 8 pixel frames after 9 given ones, as in evaluate.py."""
    with vdmrt.load(bundle, precision=precision, threads=threads) as model:
        return float(np.mean([predict(model, seed) for seed in range(skies)]))


def predict(model: Model, seed: int) -> float:
    """Return the PSNR of one sky."""
    clip = Sky(seed).frames(0, GIVEN + CHUNK)
    with model.session(seed=seed) as session:
        session.start(clip[:GIVEN])
        return psnr(session.step().pictures, clip[GIVEN:])


def print_table(figures: Figures) -> None:
    """Print a row for each precision."""
    print("| | " + " | ".join(COLUMNS) + " |\n|---" + "|---:" * len(COLUMNS) + "|")
    for name, own in figures.items():
        print(f"| {name} | " + " | ".join(f"{own[one]:.2f}" if one in own else "" for one in COLUMNS) + " |")


def say(what: str) -> None:
    """Print progress on stderr."""
    click.echo(f"{time.strftime('%H:%M:%S')} {what}", err=True)


if __name__ == "__main__":
    main()
