"""The paper's experiment on this machine: the cache compared with recomputing, over 10 autoregressive steps.

Ca2-VDM (arXiv 2411.16375) reports 80 frames at 256×256 on one A100: 52.1 s with the cache, 130.1 s with extendable
conditioning and 77.5 s with fixed conditioning. Here extendable conditioning recomputes all frames so far (25 at most)
in each denoising step, fixed conditioning the last 8. All three run in ONNX Runtime on the CPU, with the same random
weights and latents of 16×16: ratios can be compared with the paper's, times cannot. At each autoregressive step the
contenders' denoising steps are timed in turn, ``--runs`` times; its time is composed of their median and, for the
cache, the median of all cache fills. The composed ratio is reported with the least and the greatest ratio of single
runs. Writes results/paper.json, and results/paper.html with the curve.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# First, because it sets the threads of OpenMP before torch is imported.
from cpu_vs_torch import CHUNK, LATENT, SLOTS, THREADS, UncachedGraph, denoising_step, say, started, uncached_onnx
from measuring import RESULTS, Gate, interleave, report

import vdmrt
from vdmrt.export import ExportOptions, export_bundle, load_config, random_model
from vdmrt.reporting import Cell, Headline, Page, Series, Table, draw_lines

CHUNKS, STEPS, FIXED = 10, 50, 8
PAPER = {"cached": 52.1, "extendable": 130.1, "fixed": 77.5}
Curves = dict[str, list[float]]
# Seconds of a denoising step in each run, by contender and autoregressive step.
Steps = dict[str, list[list[float]]]


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15, help="timed denoising steps at each autoregressive step")
    runs = parser.parse_args().runs
    config = load_config("CausalSTDiT2-S/2", latent_size=LATENT)
    model = random_model(config, seed=0)
    prefixes = [min(1 + CHUNK * number, SLOTS) for number in range(CHUNKS)]
    with tempfile.TemporaryDirectory() as folder:
        say("exporting the cached graphs")
        options = ExportOptions(prediction="v", chunk_frames=CHUNK, slots=SLOTS)
        bundle = export_bundle(model, Path(folder) / "bundle", options, name="S/2", random_weights=True)
        uncached = {}
        for clean in sorted({*prefixes, FIXED}):
            say(f"exporting the pass that recomputes {clean} latent frames")
            uncached[clean] = uncached_onnx(UncachedGraph(model, clean), Path(folder) / "uncached")
        with vdmrt.load(bundle.path, threads=THREADS) as loaded:
            steps, fill_s = measure_steps(loaded, uncached, prefixes, runs)
    curves = compose(steps, fill_s)
    totals = {name: sum(curve) for name, curve in curves.items()}
    spread = {name: spread_ratios(steps, name, fill_s) for name in steps if name != "cached"}
    gates = [
        Gate(
            f"{name} conditioning over cached (paper {PAPER[name] / PAPER['cached']:.2f})",
            total / totals["cached"],
            1.0,
        )
        for name, total in totals.items()
        if name != "cached"
    ]
    print_table(totals)
    draw(curves, totals)
    settings = {"chunks": CHUNKS, "steps": STEPS, "runs": runs, "latent": LATENT, "fixed": FIXED, "threads": THREADS}
    details = {
        "seconds": totals,
        "paper_seconds": PAPER,
        "fill_s": fill_s,
        "over cached, least and greatest of single runs": spread,
        "curves_s": curves,
    }
    return report("paper", settings, gates, details)


def measure_steps(
    loaded: vdmrt.Model, uncached: dict[int, Callable[[], object]], prefixes: list[int], runs: int
) -> tuple[Steps, float]:
    """Return the denoising steps of each contender, and the seconds of a cache fill."""
    steps: Steps = {name: [] for name in PAPER}
    fills = []
    session = started(loaded, 0, steps=1)
    for number, clean in enumerate(prefixes):
        say(f"autoregressive step {number + 1} of {CHUNKS}, {clean} latent frames so far")
        contenders = {"cached": denoising_step(session), "extendable": uncached[clean], "fixed": uncached[FIXED]}
        for name, values in interleave(contenders, runs, warmup=2).items():
            steps[name].append(values)
        timings = session.step().timings
        fills.append((timings.fill_ms + timings.scatter_ms) / 1e3)
    session.close()
    return steps, statistics.median(fills)


def compose(steps: Steps, fill_s: float) -> Curves:
    """Return the seconds of each autoregressive step of each contender."""
    return {
        name: [STEPS * statistics.median(values) + (fill_s if name == "cached" else 0.0) for values in curve]
        for name, curve in steps.items()
    }


def spread_ratios(steps: Steps, name: str, fill_s: float) -> tuple[float, float]:
    """Return the least and the greatest ratio over the cache for rollouts of single runs."""
    totals = {who: [STEPS * sum(run) for run in zip(*steps[who], strict=True)] for who in (name, "cached")}
    ratios = [other / (own + CHUNKS * fill_s) for other, own in zip(totals[name], totals["cached"], strict=True)]
    return min(ratios), max(ratios)


def print_table(totals: dict[str, float]) -> None:
    """Print the times and ratios, and the paper's."""
    print(f"{'':<12}{'here, s':>10}{'over cached':>13}{'paper, s':>10}{'over cached':>13}")
    for name, total in totals.items():
        ours, theirs = total / totals["cached"], PAPER[name] / PAPER["cached"]
        print(f"{name:<12}{total:>10.1f}{ours:>13.2f}{PAPER[name]:>10.1f}{theirs:>13.2f}")


def draw(curves: Curves, totals: dict[str, float]) -> None:
    """Write the curve as a page."""
    tones = ("tone-a", "tone-b", "tone-c")
    lines = [Series(name, tone, curve) for (name, curve), tone in zip(curves.items(), tones, strict=True)]
    times = " and ".join(f"{totals[name] / totals['cached']:.2f}" for name in ("extendable", "fixed"))
    verdict = Headline(
        f"Recomputing all conditioning frames, or the last {FIXED}, takes {times} times as long as the cache"
    )
    subtitle = [f"{CHUNKS} autoregressive steps of {STEPS} denoising steps"]
    page = Page("The cache against recomputing", subtitle=subtitle, verdict=verdict)
    title = "Time of an autoregressive step, s"
    x = list(itertools.islice(itertools.count(0.0), CHUNKS))
    page.add_section("Over autoregressive steps", draw_lines(lines, x=x, title=title, x_title="autoregressive step"))
    rows: list[list[Cell]] = [
        [name, total, total / totals["cached"], PAPER[name] / PAPER["cached"]] for name, total in totals.items()
    ]
    page.add_section("Ratios", Table(["conditioning", "seconds here", "over cached", "over cached in the paper"], rows))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "paper.html").write_text(page.render(), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
