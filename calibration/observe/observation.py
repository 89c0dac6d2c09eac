"""Statistics of a calibration, accumulated over rollouts and saved after each, so that a run can resume."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle import (
    FP32,
    Role,
    Stage,
    check_writable,
    format_count,
    replaced_file,
    write_error,
)
from ...errors import CalibrationError
from ...runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from ...runtime.session.model import Model
from ..graph.cache_scales import cache_name
from ..graph.linears import find_linears, sites_of
from ..scratch import scratch_folder
from .instrument import Instrument
from .rollouts import Strata, plan_rollouts, run_rollout
from .statistics import ChannelStatistics
from .tap import TappedBackend

if TYPE_CHECKING:
    from ...bundle import (
        Bundle,
        Geometry,
        TensorSpec,
    )
    from ..graph.graph_file import GraphFile
    from ..graph.linears import Linear
    from .data import CalibrationSet
    from .instrument import Array

__all__ = ["Observation", "observe_rollouts"]

_log = logging.getLogger("vdmrt")


@dataclass
class Observation:
    """Observed statistics.

    Attributes:
        activations: Statistics of the inputs of linears, by stage, then by site.
        cache: Statistics of the values written to the cache, by ``k.3`` or ``v.3``; channels are heads x head size.
        strata: Number of observations of each state.
        done: Number of observed rollouts.
    """

    activations: dict[str, dict[str, ChannelStatistics]] = field(
        default_factory=lambda: {Stage.FILL: {}, Stage.DENOISE: {}}
    )
    cache: dict[str, ChannelStatistics] = field(default_factory=dict)
    strata: Strata = field(default_factory=Strata)
    done: int = 0

    @property
    def nbytes(self) -> int:
        """Size of all statistics in bytes; it does not grow with the data."""
        return sum(one.nbytes for _, one in self._entries())

    def save(self, path: Path) -> None:
        """Save the statistics, atomically.

        Raises:
            CalibrationError: The file cannot be written.
        """
        arrays: dict[str, Array] = {"head": np.array(json.dumps([self.done, self.strata.counts]))}
        for name, one in self._entries():
            arrays |= {f"{name}|{part}": np.asarray(value) for part, value in vars(one).items()}
        with replaced_file(path, fail=CalibrationError) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub confuses the names with flags

    @classmethod
    def load(cls, path: Path) -> Observation:
        """Load saved statistics.

        Raises:
            ValueError: The file is not an observation.
        """
        found = cls()
        with np.load(path, allow_pickle=False) as arrays:
            found.done, counts = json.loads(str(arrays["head"]))
            found.strata = Strata(dict(counts))
            for name in sorted({key.rpartition("|")[0] for key in arrays.files} - {""}):
                kind, _, site = name.partition("|")
                one = ChannelStatistics(
                    **{part: arrays[f"{name}|{part}"] for part in ("amax", "total", "histogram", "products")},
                    count=int(arrays[f"{name}|count"]),
                )
                (found.cache if kind == "cache" else found.activations[kind])[site] = one
        return found

    def _entries(self) -> list[tuple[str, ChannelStatistics]]:
        activations = [(f"{stage}|{site}", one) for stage, by in self.activations.items() for site, one in by.items()]
        return activations + [(f"cache|{name}", one) for name, one in self.cache.items()]


def observe_rollouts(
    bundle: Bundle,
    graphs: Mapping[str, GraphFile],
    data: CalibrationSet,
    *,
    samples: int,
    seed: int,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
    resume: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Observation:
    """Observe real rollouts of a float32 bundle.

    Args:
        bundle: Bundle with fp32 graphs.
        graphs: The same graphs, opened.
        data: Clips that rollouts continue from.
        samples: Least number of denoising runs to observe.
        seed: Seed of all noise and choices.
        threads: Threads of the CPU provider.
        options: Further arguments of :meth:`Model.session`.
        resume: Folder for the statistics, saved after each rollout; the caller removes it at the end.
        on_progress: Called with the denoising steps done and the steps planned.

    Raises:
        CalibrationError: ``samples`` is below 1, an activation is NaN or infinite, or ``resume`` cannot be written.
    """
    linears = {stage: find_linears(graph) for stage, graph in graphs.items()}
    sites = sites_of(linears.values())
    backend = TappedBackend(OnnxRuntimeBackend(threads=threads))
    with scratch_folder("observe") as folder, Model(bundle, backend, FP32) as model:
        instruments = _instruments(graphs, linears, sites, folder)
        steps = (options or {}).get("steps") or model.manifest.sampler.steps
        planned = plan_rollouts(model.manifest.geometry, data, samples, steps)
        kept = _kept_file(resume, bundle, data, samples, seed, options)
        seen = _begun(kept)
        total = sum(rollout.chunks for rollout in planned) * steps
        stepped = sum(rollout.chunks for rollout in planned[: seen.done]) * steps

        def observe(stage: str, tensors: Mapping[str, Array]) -> None:
            instruments[stage].observe(tensors, seen.activations[stage])
            if stage == Stage.FILL:
                _observe_cache(model.manifest.geometry, graphs[stage].specs, tensors, seen.cache)

        def on_step() -> None:
            nonlocal stepped
            stepped += 1
            on_progress(stepped, total)

        for rollout in planned[seen.done :]:
            run_rollout(
                model, backend, rollout, data, observe, seed=seed, options=options, strata=seen.strata, on_step=on_step
            )
            seen.done += 1
            _check_finite(seen)
            if kept is not None:
                seen.save(kept)
    return seen


def _instruments(
    graphs: Mapping[str, GraphFile], linears: Mapping[str, list[Linear]], sites: Mapping[str, str], folder: Path
) -> dict[str, Instrument]:
    return {stage: Instrument(graph, linears[stage], sites, folder) for stage, graph in graphs.items()}


def _observe_cache(
    g: Geometry, specs: Iterable[TensorSpec], tensors: Mapping[str, Array], into: dict[str, ChannelStatistics]
) -> None:
    """Add K and V of a fill, [B, S·H, T, d] or [B, H, T·S, d], as vectors of H·d channels."""
    channels = g.heads * g.head_size
    for spec in specs:
        name = cache_name(spec)
        if name is None or spec.role not in (Role.PRESENT_KEY, Role.PRESENT_VALUE):
            continue
        split = tensors[spec.name].astype(np.float32).reshape(-1, g.heads, spec.shape[2], g.head_size)
        rows = split.transpose(0, 2, 1, 3).reshape(-1, channels)
        one = into.setdefault(name, ChannelStatistics.empty(channels))
        one.add(rows[:: max(1, len(rows) // 64) | 1], amax=np.abs(rows).max(0), mean=rows.mean(0))


def _check_finite(seen: Observation) -> None:
    for name, one in seen._entries():
        if not np.isfinite(one.amax).all():
            raise CalibrationError(
                f"the input of '{name.partition('|')[2]}' is NaN or infinite in float32; "
                "the checkpoint or the data is broken"
            )


def _kept_file(
    folder: Path | None,
    bundle: Bundle,
    data: CalibrationSet,
    samples: int,
    seed: int,
    options: Mapping[str, Any] | None,
) -> Path | None:
    """Return the file that keeps the statistics between rollouts, named after a hash of all their inputs."""
    if folder is None:
        return None
    graphs = bundle.manifest.graphs_sha256(FP32)
    given = {name: str(np.asarray(value).tolist()) for name, value in (options or {}).items()}
    key = json.dumps([graphs, data.sha256, samples, seed, given], sort_keys=True)
    kept = folder / f"observation-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(kept, error, CalibrationError) from error
    return check_writable(kept, fail=CalibrationError)


def _begun(kept: Path | None) -> Observation:
    if kept is None or not kept.exists():
        return Observation()
    try:
        found = Observation.load(kept)
    except (ValueError, KeyError, OSError) as error:
        _log.warning("%s cannot be read (%s); observing from the start", kept, error)
        return Observation()
    _log.info("resuming after %s in %s", format_count(found.done, "rollout"), kept)
    return found
