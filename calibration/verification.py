"""The accuracy gate: a precision against a reference over long rollouts, as ``vdmrt verify`` does it."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Accuracy, Bundle, open_bundle, rewrite_manifest
from ..errors import CalibrationError
from ..reporting import Figure
from ..runtime.model import Model
from ..runtime.onnxruntime_backend import OnnxRuntimeBackend
from .comparison import Comparison, Contender, Latents, check_alike, compare_rollouts, given_frames
from .data import read_set
from .guard import SAFE, Guard, Large
from .quantisation import Quantisation
from .reference import reference_bundle
from .report import render_report
from .shadow import shadow_of_bundle
from .tap import TappedBackend

__all__ = [
    "DEFAULT_GATES",
    "Gate",
    "Verdict",
    "VerifyRequest",
    "parse_gate",
    "quantisation_of",
    "session_options",
    "verify",
]

# What may grow no larger; every other figure may fall no lower.
_MOST = ("drift", "relative-l2", "largest-fp16")
DEFAULT_GATES = {"teacher-psnr": 35.0, "teacher-drift": 1.25, "largest-fp16": SAFE}
# Autoregressive steps of the first rollout that the FP16 guard watches.
_GUARDED_CHUNKS = 2


@dataclass(frozen=True)
class Gate:
    """A bound on a figure.

    Attributes:
        figure: Its name.
        bound: The least, or for drift and relative errors the most.
    """

    figure: str
    bound: float

    @property
    def wanted(self) -> str:
        """The bound in words."""
        return f"at {'most' if self.figure.endswith(_MOST) else 'least'} {self.bound:g}"

    def holds(self, found: float) -> bool:
        """Whether a figure keeps within the bound; NaN never does."""
        return found <= self.bound if self.figure.endswith(_MOST) else found >= self.bound


@dataclass(frozen=True)
class VerifyRequest:
    """What to measure; the names are the options of ``vdmrt verify``.

    Attributes:
        bundle: The bundle's folder.
        precision: What is measured; None takes the last that the bundle has.
        against: "fp32", or another bundle's folder, whose float32 graphs are the reference.
        data: What rollouts go on from, as for ``vdmrt calibrate``; None draws seeded normals.
        chunks: Autoregressive steps.
        seeds: Rollouts.
        gates: Bounds by figure.
        steps: Denoising steps; None takes the bundle's default, as for what follows.
        sampler: The sampler.
        guidance: Its scale.
        text: Text embeddings, .npy [tokens, width].
        report: An HTML file to write, or None.
        threads: Threads of the CPU provider.
    """

    bundle: Path
    precision: str | None = None
    against: str = "fp32"
    data: Path | None = None
    chunks: int = 20
    seeds: int = 4
    gates: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_GATES))
    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    text: Path | None = None
    report: Path | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("chunks", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        accuracy: What now stands in model.json.
        missed: Gates that were missed, in words.
        comparison: Every curve.
        large: Tensors that are too large to be safe in FP16.
    """

    accuracy: Accuracy
    missed: tuple[str, ...]
    comparison: Comparison
    large: tuple[Large, ...]

    def describe(self) -> str:
        """Say it in a few lines."""
        figures = "\n".join(f"  {name:22} {value:.4g}" for name, value in self.accuracy.figures.items())
        held = "\n".join(f"MISSED  {one}" for one in self.missed) or "every gate held"
        one = self.accuracy
        told = f"{one.precision} against {one.against}, {one.seeds} rollouts of {one.chunks} chunks\n{figures}\n{held}"
        return "\n".join([told, *(large.describe() for large in self.large)])

    def to_json(self) -> str:
        """Return everything but the frames."""
        curves = {name: getattr(self.comparison, name) for name in ("free", "teacher", "cache", "free_by_seed")}
        large = [dataclasses.asdict(one) for one in self.large]
        accuracy = dataclasses.asdict(self.accuracy)
        return json.dumps({"accuracy": accuracy, "missed": self.missed, "large": large, "curves": curves}, indent=1)


def parse_gate(text: str) -> Gate:
    """Read ``FIGURE=BOUND``.

    Raises:
        ValueError: It is something else.
    """
    figure, equals, bound = text.partition("=")
    try:
        value = float(bound)
    except ValueError:
        value = math.nan
    if not equals or not math.isfinite(value):
        raise ValueError(f"--gate must be FIGURE=NUMBER, as teacher-psnr=35, got {text!r}")
    return Gate(figure.strip(), value)


def verify(request: VerifyRequest, *, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Verdict:
    """Compare, judge, write the result into model.json and the report where one is wanted.

    Raises:
        CalibrationError: A gate names no figure, or the bundles are of different models.
        BundleError: A bundle is altered, or has not that precision.
        MediaError: The data cannot be read.
    """
    bundle = open_bundle(request.bundle)
    precision, _ = bundle.graphs(request.precision or list(bundle.manifest.graphs)[-1])
    bundle.verify()
    comparison, guard = _compare(bundle, precision, request, on_progress)
    figures = {**comparison.figures(), "largest-fp16": guard.highest}
    gates = _judge(figures, request.gates)
    missed = tuple(f"{name}: {value:.4g}, wanted {wanted}" for name, value, wanted, held in gates if not held)
    accuracy = Accuracy(
        precision=precision,  # type: ignore[arg-type]  # a key of the manifest's graphs
        against=request.against if request.against == "fp32" else Path(request.against).name,
        chunks=request.chunks,
        seeds=request.seeds,
        passed=not missed,
        figures=figures,
        graphs_sha256=bundle.manifest.graphs_sha256(precision),
    )
    kept = tuple(one for one in bundle.manifest.accuracy if one.precision != precision)
    rewrite_manifest(bundle, dataclasses.replace(bundle.manifest, accuracy=(*kept, accuracy)))
    if request.report is not None:
        told = {"bundle": bundle.manifest.name, "precision": precision, "against": accuracy.against}
        told |= {"rollouts": f"{request.seeds} rollouts of {request.chunks} chunks"}
        title = f"Accuracy of {precision} against {accuracy.against}"
        page = render_report(title, told, comparison, _with_limits(figures, gates))
        request.report.write_text(page, encoding="utf-8")
    return Verdict(accuracy, missed, comparison, tuple(guard.over()))


def _compare(
    bundle: Bundle, precision: str, request: VerifyRequest, on_progress: Callable[[int, int], None]
) -> tuple[Comparison, Guard]:
    other = bundle if request.against == "fp32" else open_bundle(request.against)
    tapped = TappedBackend(OnnxRuntimeBackend(threads=request.threads))
    backend = OnnxRuntimeBackend(threads=request.threads)
    with tempfile.TemporaryDirectory(prefix="vdmrt-verify-") as folder:
        reference = reference_bundle(other, Path(folder))
        with Model(reference, tapped, "fp32") as wanted, Model(bundle, backend, precision) as model:
            clips = list(read_set(request.data, wanted).clips) if request.data else []
            seeds = list(range(request.seeds))
            check_alike(wanted, model)
            guard = Guard(bundle, precision, Path(folder))
            given = given_frames(wanted, clips, seeds)
            _watch(guard, wanted, tapped, given[0], session_options(request))
            cache = quantisation_of(bundle, precision).cache
            shadow = shadow_of_bundle(bundle, precision, cache, threads=request.threads)
            compared = compare_rollouts(
                wanted,
                tapped,
                {precision: Contender(model, shadow)},
                given=given,
                seeds=seeds,
                chunks=request.chunks,
                options=session_options(request),
                on_progress=on_progress,
            )
            return compared[precision], guard


def _watch(guard: Guard, model: Model, tapped: TappedBackend, first: Latents, options: Mapping[str, Any]) -> None:
    """Let the guard see the given latent frames and the first chunks of a rollout."""
    tapped.tap = guard.follow
    try:
        with model.session(seed=0, **options) as session:
            session.start(first)
            for _ in session.stream(_GUARDED_CHUNKS):
                pass
    finally:
        tapped.tap = None


def quantisation_of(bundle: Bundle, precision: str) -> Quantisation:
    """Return how a precision was quantised; nothing for one that was exported."""
    for made in bundle.manifest.calibrations:
        if made.precision == precision:
            return Quantisation.from_json(bundle.locate(made.scales).read_text(encoding="utf-8"))
    return Quantisation("int8", "max", {}, {})


def session_options(request: VerifyRequest) -> dict[str, Any]:
    """Return the further arguments of a session."""
    given = {"steps": request.steps, "sampler": request.sampler, "guidance": request.guidance}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if request.text is not None:
        options["text"] = np.load(request.text, allow_pickle=False)
    return options


def _with_limits(figures: Mapping[str, float], gates: Sequence[tuple[str, float, str, bool]]) -> list[Figure]:
    limits = {name: (wanted, held) for name, _, wanted, held in gates}
    return [Figure(name, value, *limits.get(name, (None, None))) for name, value in figures.items()]


def _judge(figures: Mapping[str, float], gates: Mapping[str, float]) -> Sequence[tuple[str, float, str, bool]]:
    judged = []
    for name, bound in gates.items():
        if name not in figures:
            raise CalibrationError(f"--gate {name!r} is no figure; there are {', '.join(figures)}")
        gate = Gate(name, bound)
        judged.append((name, figures[name], gate.wanted, gate.holds(figures[name])))
    return judged
