"""Profiles: injected delays, wall time, and settings."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from delayed import delayed_model

from vdmrt.bundle import open_bundle
from vdmrt.errors import VdmrtError
from vdmrt.profiler import Recorder, Report, Settings, Span, profile
from vdmrt.profiler.measuring.player import measure_attainment, measure_stall
from vdmrt.profiler.measuring.recorder import measure_union
from vdmrt.runtime import load

DELAY = 0.04


def profiled(
    bundle: Path, delay: dict[str, float], took: dict[str, list[float]] | None = None, **given: object
) -> Report:
    """Profile a bundle with delays in some stages."""
    settings = Settings(bundle, sampler="ddim", **({"chunks": 5, "steps": 2, "warmup": 0, "roofline": False} | given))  # type: ignore[arg-type]
    with delayed_model(bundle, lambda stage, run: delay.get(stage, 0.0), took) as model:
        return profile(settings, model=model)


@pytest.mark.parametrize(("graph", "stage"), [("fill", "fill"), ("denoise", "step"), ("decode", "decode")])
def test_a_delay_appears_in_its_stage_and_in_no_other(graph: str, stage: str, tiny_bundle: Path) -> None:
    took: dict[str, list[float]] = {}
    slow = profiled(tiny_bundle, {graph: 2 * DELAY}, took)

    # The runs before are those of the cold chunk and of the start.
    count = slow.stages[stage].count
    wanted = float(np.median(took[graph][-count:]))
    assert wanted >= 2e3 * DELAY
    assert slow.stages[stage].median == pytest.approx(wanted, rel=0.05)
    for name in {"fill", "step", "decode", "scatter", "noise"} - {stage}:
        assert slow.stages[name].median < 1e3 * DELAY, name


def test_a_rare_delay_appears_in_the_percentile_and_not_in_the_median(tiny_bundle: Path) -> None:
    rare = 6 * DELAY
    settings = Settings(tiny_bundle, sampler="ddim", steps=1, chunks=20, warmup=0, decoding="off", roofline=False)
    took: dict[str, list[float]] = {}

    def delay(stage: str, run: int) -> float:
        return rare if stage == "denoise" and run % 10 == 5 else 0.0

    with delayed_model(tiny_bundle, delay, took) as model:
        step = profile(settings, model=model).stages["step"]

    # Two of twenty.
    slow = sorted(took["denoise"][-20:])[-2:]
    assert slow[0] >= 1e3 * rare
    assert step.median < 1e3 * rare / 2
    assert step.percentiles["90"] < 1e3 * rare / 2
    assert [step.percentiles[percent] for percent in ("95", "99")] == pytest.approx(slow, rel=0.05)


def test_a_delay_in_one_autoregressive_step_appears_there_on_the_curve(tiny_bundle: Path) -> None:
    settings = Settings(tiny_bundle, sampler="ddim", steps=1, chunks=6, warmup=0, decoding="off", roofline=False)
    # Runs of denoise: the cold chunk, then six that are measured.
    took: dict[str, list[float]] = {}

    def delay(stage: str, run: int) -> float:
        return 4 * DELAY if stage == "denoise" and run == 1 + 3 else 0.0

    with delayed_model(tiny_bundle, delay, took) as model:
        curve = profile(settings, model=model).curve

    slow = [point.index for point in curve if point.step_ms > 2e3 * DELAY]
    assert slow == [3]
    assert curve[3].step_ms == pytest.approx(took["denoise"][1 + 3], rel=0.05)
    assert curve[3].step_ms >= 4e3 * DELAY


def test_the_curve_counts_what_is_cached_until_the_cache_is_full(tiny_bundle: Path) -> None:
    report = profiled(tiny_bundle, {})

    assert [point.cached_frames for point in report.curve] == [1, 4, 7, 7, 7]
    assert report.workload.slots == 7


def test_the_stages_cover_the_wall_time(tiny_bundle: Path) -> None:
    report = profiled(tiny_bundle, {"denoise": DELAY / 2, "fill": DELAY / 2, "decode": DELAY / 2})

    assert report.rate.covered == pytest.approx(1.0, abs=0.02)
    parts = sum(report.stages[name].mean for name in ("noise", "denoise", "fill", "scatter", "host", "decode"))
    assert parts * 5 == pytest.approx(report.rate.wall_ms, rel=0.02)


def test_overlapped_decoding_is_hidden_by_the_next_chunk(tiny_bundle: Path) -> None:
    delay = {"denoise": DELAY, "decode": DELAY}

    serial = profiled(tiny_bundle, delay)
    overlapped = profiled(tiny_bundle, delay, decoding="overlapped")

    # Decoding takes 40 of 120 ms; only the last one is not hidden.
    assert overlapped.rate.wall_ms == pytest.approx(serial.rate.wall_ms - 4 * 1e3 * DELAY, rel=0.05)
    decodes = [span for span in overlapped.timeline if span.stage == "decode"]
    steps = [span for span in overlapped.timeline if span.stage == "step"]
    assert len(decodes) == 2
    assert any(d.begin_ms < s.end_ms and s.begin_ms < d.end_ms for d in decodes for s in steps)


def test_deadlines_are_judged_at_the_target(tiny_bundle: Path) -> None:
    # A chunk of 3 frames takes about 80 ms: it plays 300 ms at 10 fps, 30 ms at 100 fps.
    report = profiled(tiny_bundle, {"denoise": DELAY}, target_fps=10.0)
    late = profiled(tiny_bundle, {"denoise": DELAY}, target_fps=100.0)

    assert (report.rate.attainment, report.rate.stall_ms) == (1.0, 0.0)
    assert report.rate.real_time_factor == pytest.approx(report.stages["arrival"].median / 300)
    assert late.rate.attainment == 0.0
    assert late.rate.stall_ms == pytest.approx(sum(late.arrivals_ms) - 4 * 30)


def test_a_player_waits_only_for_chunks_that_are_late() -> None:
    arrivals = [5.0, 10.0, 40.0, 41.0]

    assert measure_stall(arrivals, 10.0) == 40.0 - 25.0
    assert measure_attainment(arrivals, 10.0) == 1 / 3
    assert measure_attainment([5.0], 10.0) == 1.0


def test_a_report_is_json_with_a_kind_and_a_schema(tiny_bundle: Path) -> None:
    report = profiled(tiny_bundle, {})

    document = json.loads(report.to_json())

    assert (document["kind"], document["schema"]) == ("vdmrt.profile", 1)
    assert document["workload"]["warmup_chunks"] == 1
    assert document["stages"]["step"]["count"] == 10
    assert document["memory"]["cache_nbytes"] == open_bundle(tiny_bundle).manifest.geometry.cache_elements * 4
    assert document["memory"]["copied_nbytes"] == 0
    assert document["memory"]["device_used_nbytes"] is None


def test_every_field_of_a_report_is_documented() -> None:
    import dataclasses

    from vdmrt.profiler.analysis import statistics
    from vdmrt.profiler.measuring import recorder
    from vdmrt.profiler.report import report

    page = (Path(__file__).parent.parent / "profiler" / "REPORT.md").read_text()
    classes = [*vars(report).values(), statistics.Interval, statistics.Summary, recorder.Span]
    names = {field.name for cls in classes if dataclasses.is_dataclass(cls) for field in dataclasses.fields(cls)}

    assert {name for name in names if f"`{name}`" not in page} == set()


def test_text_and_guidance_are_profiled_and_absolute_positions_restart(text_bundle: Path) -> None:
    report = profile(Settings(text_bundle, chunks=7, warmup=1, steps=2, sampler="ddim", decoding="off", roofline=False))

    # Nine positions, chunks of two from one frame: four chunks, then from the start.
    assert [point.cached_frames for point in report.curve] == [1, 3, 4, 4, 1, 3, 4]
    assert report.first.load_ms is not None


def test_a_run_lasts_for_the_duration(tiny_bundle: Path) -> None:
    report = profiled(tiny_bundle, {"fill": DELAY}, chunks=1, duration=0.3)

    assert report.workload.chunks > 3
    assert report.rate.wall_ms > 300


def test_the_host_has_no_enqueue_time_and_no_warning_of_it(tiny_bundle: Path) -> None:
    report = profiled(tiny_bundle, {})

    assert "enqueue" not in report.stages
    assert any(note.startswith("there is no enqueue time") for note in report.notes)
    assert not any("bound by enqueue" in warning for warning in report.warnings)


def test_an_unsteady_run_gives_a_warning(tiny_bundle: Path) -> None:
    settings = Settings(tiny_bundle, sampler="ddim", steps=1, chunks=6, warmup=0, decoding="off", roofline=False)
    with delayed_model(tiny_bundle, lambda stage, run: DELAY * (run % 2) if stage == "denoise" else 0.0) as model:
        warnings = profile(settings, model=model).warnings

    assert any("denoising steps vary by" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chunks": 0}, "--chunks must be at least 1, got 0"),
        ({"warmup": -1}, "--warmup must be at least 0, got -1"),
        ({"duration": 0.0}, "--duration must be positive and finite, got 0"),
        ({"target_fps": float("inf")}, "--target-fps must be positive and finite, got inf"),
        ({"percentiles": (50.0, 101.0)}, "--percentile must be above 0 and at most 100"),
        ({"decoding": "lazy"}, "--decoding must be one of serial, overlapped, off, got 'lazy'"),
        ({"seed": -1}, "--seed must be 0 <= seed"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(Path("bundle"), **given)  # type: ignore[arg-type]


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VdmrtError):
        profile(Settings(tmp_path))


def test_the_union_counts_what_overlaps_once() -> None:
    spans = [Span("step", 0, 0, 0.0, 4.0), Span("decode", 0, -1, 1.0, 2.0), Span("fill", 0, -1, 3.0, 6.0)]

    assert measure_union([*spans, Span("scatter", 0, -1, 10.0, 11.0)]) == 7.0


def test_a_recorder_stays_on_in_bounded_memory(tiny_bundle: Path) -> None:
    with load(tiny_bundle) as model, model.session(seed=1, sampler="ddim", steps=2) as session:
        recorder = Recorder(capacity=16).attach(session)
        session.start(np.zeros((1, *model.manifest.geometry.latent_shape)))
        for _ in session.stream(12):
            pass

    assert recorder.distributions["step"].count == 24
    spans = recorder.spans()
    assert len(spans) == 16
    assert spans[-1].stage == "chunk" and spans[-1].chunk == 11


def test_a_decode_in_another_thread_is_recorded_with_its_chunk(tiny_bundle: Path) -> None:
    with load(tiny_bundle) as model, model.session(seed=1, sampler="ddim", steps=1) as session:
        recorder = Recorder().attach(session)
        session.start(np.zeros((1, *model.manifest.geometry.latent_shape)))
        session.step()
        chunk = session.step()
        thread = threading.Thread(target=lambda: chunk.pictures)
        thread.start()
        thread.join()

    assert [span.chunk for span in recorder.spans() if span.stage == "decode"] == [1]


def test_too_few_chunks_for_a_percentile_are_noted(tiny_bundle: Path) -> None:
    notes = profiled(tiny_bundle, {}, percentiles=(50.0, 80.0, 99.0)).notes

    assert any(note.startswith("5 chunks are too few for 99 %") for note in notes)


def test_ranges_for_nsight_do_not_change_the_figures(tiny_bundle: Path) -> None:
    report = profiled(tiny_bundle, {"fill": DELAY}, nvtx=True)

    assert report.stages["fill"].median > 1e3 * DELAY
    assert report.stages["step"].count == 10
