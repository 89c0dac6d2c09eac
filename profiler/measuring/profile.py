"""The profile behind ``vdmrt profile``: load, measure, judge."""

from __future__ import annotations

import dataclasses
import datetime
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from ...bundle import format_count, open_bundle
from ...hosts.nvml import open_meter
from ...runtime.backends.load_options import LoadOptions
from ...runtime.session.loading import open_model
from ..analysis.compare import (
    Side,
    compare,
    parse_other,
    stay_open,
)
from ..analysis.roofline import best_ceilings, measure_ceilings, place_stages
from ..analysis.statistics import summarize
from ..layers.layer import describe_layers, name_layers
from ..layers.timing import check_timed, time_layers
from ..report.report import (
    Energy,
    FirstFrame,
    Point,
    Rate,
    Report,
    Workload,
)
from .checks import check_loading, check_session
from .environment import describe_environment
from .measurement import default_chunks, measure
from .memory import measure_memory
from .player import measure_attainment, measure_stall
from .recorder import measure_union

if TYPE_CHECKING:
    from ...hosts.nvml import GpuMeter, GpuReading
    from ...runtime.session.model import Model
    from ..analysis.statistics import Summary
    from ..report.report import (
        Ceilings,
        Environment,
        Layer,
        RooflineStage,
    )
    from .measurement import Measurement
    from .recorder import Span
    from .settings import Settings

__all__ = ["load_model", "profile"]

# Variation above which a figure is doubtful. trtexec warns from 1 % on a GPU; shared CPUs are never that steady.
_UNSTEADY_GPU, _UNSTEADY_CPU = 0.01, 0.10


def profile(
    settings: Settings,
    *,
    against: str | None = None,
    model: Model | None = None,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Profile a bundle.

    Args:
        settings: The options.
        against: Contender of a comparison: a bundle's folder, or settings such as "precision=fp16,steps=4".
        model: Loaded model, left open; None loads ``settings.bundle`` and measures the time of that.
        say: Called with progress messages.

    Raises:
        VdmrtError: The bundle or the backend fails.
        ValueError: A setting does not fit the bundle.
    """
    say = say or (lambda text: None)
    other = None if against is None else parse_other(settings, against)
    check_session(open_bundle(settings.bundle) if model is None else model.bundle, settings)
    if other is not None:
        check_loading(other)
        check_session(open_bundle(other.bundle), other)
    with ExitStack() as opened:
        load_ms = None
        if model is None:
            say(f"loading {settings.bundle}")
            began = time.perf_counter()
            model = opened.enter_context(load_model(settings))
            load_ms = (time.perf_counter() - began) * 1e3
        report = _profile(model, settings, load_ms, say)
        if against is None or other is None:
            return report
        say(f"comparing with {against}, in alternation")
        pairs = settings.chunks or default_chunks(model.manifest.geometry)
        mine: Callable[[], AbstractContextManager[Model]] = stay_open(model)
        theirs = mine
        if not _loads_alike(settings, other):
            theirs = partial(_reload, other)
            if load_ms is not None:
                opened.close()  # both are loaded in each round; three models may not fit
                mine = partial(_reload, settings)
        comparison = compare(Side(settings, mine), Side(other, theirs), what=against, pairs=pairs)
        return dataclasses.replace(report, comparison=comparison)


def load_model(settings: Settings, *, verify: bool = True) -> Model:
    """Load the bundle of the settings.

    Args:
        settings: Settings with the bundle and the options of loading.
        verify: Whether the hash of every file is checked first.

    Raises:
        VdmrtError: The bundle or the backend fails.
    """
    return open_model(settings.bundle, settings, verify=verify)


def _reload(settings: Settings) -> Model:
    return load_model(settings, verify=False)


def _loads_alike(one: Settings, other: Settings) -> bool:
    names = ("bundle", *(field.name for field in dataclasses.fields(LoadOptions)))
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _profile(model: Model, settings: Settings, load_ms: float | None, say: Callable[[str], None]) -> Report:
    if settings.layers:
        check_timed(model)  # before the measurement, which takes minutes
    before, unmeasured = _measure_ceilings(model, settings, say)
    say(f"measuring on {model.describe()}")
    environment = describe_environment(model)
    meter, refusal = open_meter(environment.device)
    with meter or nullcontext():
        found = measure(model, settings)
    # Measured before and after, because another process may slow either; the better one counts.
    ceilings = best_ceilings(before, _measure_ceilings(model, settings, say)[0])
    stages = _summarize_stages(found, settings, on_host=environment.device == "host")
    roofline = () if ceilings is None else place_stages(model, ceilings, stages)
    layers: tuple[Layer, ...] = ()
    if settings.layers:
        say("timing every layer, in a separate pass")
        layers = name_layers(model.bundle, model.precision, time_layers(model, settings))
    rate = _judge_rate(found, settings, model.manifest.geometry.chunk_frames)
    return Report(
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        environment=environment if meter is None else _name_gpu(environment, meter),
        workload=_describe_workload(model, settings, found),
        first=FirstFrame(load_ms, found.cold_ms, None if load_ms is None else load_ms + found.cold_ms, found.warm_ms),
        stages=stages,
        curve=_draw_curve(found),
        arrivals_ms=tuple(_arrivals(found)),
        rate=rate,
        memory=measure_memory(model, found.cache_nbytes, found.device_used_nbytes),
        timeline=_cut_timeline(found),
        energy=None if meter is None else _energy(meter.read(), found.generated_frames),
        ceilings=ceilings,
        roofline=roofline,
        layers=layers,
        spans=tuple(found.spans),
        warnings=tuple(_find_warnings(stages, roofline, on_gpu=environment.device.startswith("cuda"))),
        notes=(
            *_write_notes(model, settings, found),
            *describe_layers(layers, model.backend.name),
            *(note for note in (unmeasured, refusal) if note),
        ),
    )


def _energy(reading: GpuReading | None, frames: int) -> Energy | None:
    if reading is None:
        return None
    return Energy(joules_per_frame=reading.joules / frames, **dataclasses.asdict(reading))


def _name_gpu(environment: Environment, meter: GpuMeter) -> Environment:
    driver = ", ".join(text for text in (meter.driver, environment.driver) if text)
    return dataclasses.replace(environment, gpu=meter.name, driver=driver)


def _measure_ceilings(
    model: Model, settings: Settings, say: Callable[[str], None]
) -> tuple[Ceilings | None, str | None]:
    if not settings.roofline:
        return None, None
    say("measuring the device's ceilings")
    return measure_ceilings(model)


def _describe_workload(model: Model, settings: Settings, found: Measurement) -> Workload:
    g = model.manifest.geometry
    decodes = settings.decoding != "off" and model.codec is not None
    return Workload(
        bundle=str(settings.bundle),
        name=model.manifest.name,
        random_weights=model.manifest.random_weights,
        backend=model.describe(),
        precision=model.precision,
        sampler=found.sampler,
        steps=found.steps,
        seed=settings.seed,
        chunk_frames=g.chunk_frames,
        slots=g.slots,
        codec=model.codec.kind if model.codec is not None and decodes else None,
        decoding=settings.decoding if decodes else "off",
        warmup_chunks=settings.warmup + 1,
        chunks=found.chunks,
    )


def _summarize_stages(found: Measurement, settings: Settings, *, on_host: bool) -> Mapping[str, Summary]:
    of = found.recorder.distributions
    # On the host, enqueueing runs the step, so the times are equal.
    left_out = {"arrival", "enqueue"} if on_host else {"arrival"}
    stages = {
        name: distribution.summary(settings.percentiles)
        for name, distribution in of.items()
        if distribution.count and name not in left_out
    }
    arrivals = _arrivals(found)
    if arrivals:
        stages["arrival"] = summarize(arrivals, settings.percentiles)
    return stages


def _arrivals(found: Measurement) -> list[float]:
    return [later - earlier for earlier, later in zip(found.delivered_ms, found.delivered_ms[1:], strict=False)]


def _draw_curve(found: Measurement) -> tuple[Point, ...]:
    return tuple(
        Point(index, cached, statistics.median(t.denoise_ms), t.fill_ms, t.total_ms)
        for index, (cached, t) in enumerate(zip(found.cached_frames, found.timings, strict=True))
    )


def _judge_rate(found: Measurement, settings: Settings, chunk_frames: int) -> Rate:
    frames = found.chunks * chunk_frames
    generating_ms = sum(timings.total_ms for timings in found.timings)
    rate = {
        "latent_fps": frames / generating_ms * 1e3,
        "frame_fps": frames / found.wall_ms * 1e3,
        "wall_ms": found.wall_ms,
        "covered": measure_union([span for span in found.spans if span.stage != "chunk"]) / found.wall_ms,
    }
    if settings.target_fps is None:
        return Rate(**rate)
    playing_ms = chunk_frames / settings.target_fps * 1e3
    arrivals = _arrivals(found)
    return Rate(
        **rate,
        target_fps=settings.target_fps,
        real_time_factor=statistics.median(arrivals or [found.wall_ms]) / playing_ms,
        attainment=measure_attainment(found.delivered_ms, playing_ms),
        stall_ms=measure_stall(found.delivered_ms, playing_ms),
    )


def _cut_timeline(found: Measurement) -> tuple[Span, ...]:
    """Return the spans of two neighboring chunks from the middle of the run, on a clock that starts with them."""
    first = max(0, min(found.chunks // 2, found.chunks - 2))
    spans = [span for span in found.spans if first <= span.chunk <= first + 1]
    origin = min((span.begin_ms for span in spans), default=0.0)
    return tuple(
        dataclasses.replace(span, begin_ms=span.begin_ms - origin, end_ms=span.end_ms - origin) for span in spans
    )


def _find_warnings(stages: Mapping[str, Summary], roofline: Sequence[RooflineStage], *, on_gpu: bool) -> list[str]:
    warnings = []
    step, limit = stages["step"], _UNSTEADY_GPU if on_gpu else _UNSTEADY_CPU
    if step.variation > limit:
        advice = "lock the GPU's clocks (nvidia-smi -lgc)" if on_gpu else "stop other processes, or set --threads"
        warnings.append(
            f"the machine is unsteady: denoising steps vary by {100 * step.variation:.1f} % "
            f"(coefficient of variation; {100 * limit:.0f} % is steady); {advice}, and rely on medians only"
        )
    enqueue = stages.get("enqueue")
    if enqueue is not None and enqueue.median > 0.9 * step.median:
        warnings.append(
            f"the run may be bound by enqueue: a denoising step takes {step.median:.3f} ms and enqueueing it "
            f"{enqueue.median:.3f} ms; replay a captured CUDA graph, or use a faster CPU"
        )
    if any(stage.fraction > 1.02 for stage in roofline):
        warnings.append(
            "a stage ran above the roofline: the machine was slower while the ceilings were measured; profile again"
        )
    return warnings


def _write_notes(model: Model, settings: Settings, found: Measurement) -> Sequence[str]:
    notes = [f"warm-up, {format_count(settings.warmup + 1, 'chunk')}, counts only for the cold first frame"]
    rare = [percent for percent in settings.percentiles if found.chunks < 100 / (100.001 - percent)]
    if rare:
        shown = ", ".join(f"{percent:g} %" for percent in rare)
        made = f"{format_count(found.chunks, 'chunk')} {'is' if found.chunks == 1 else 'are'}"
        notes.append(f"{made} too few for {shown}: that percentile of a chunk is the maximum")
    if model.manifest.random_weights:
        notes.append("the weights are random: times are real, pictures are not")
    if model.codec is None:
        notes.append("the bundle has no codec: frames are latent frames")
    elif settings.decoding == "off":
        notes.append("decoding was off: frames are latent frames")
    elif model.codec.kind == "preview":
        notes.append("frames were decoded by the preview codec, which costs far less than a VAE")
    if model.backend.device_name == "host":
        notes.append("there is no enqueue time: the backend runs a step and waits for it")
    return notes
