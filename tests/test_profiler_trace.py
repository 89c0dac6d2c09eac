"""The trace conforms to Chrome's Trace Event Format, and contains the recorded spans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vdmrt.profiler import Report, Settings, profile
from vdmrt.profiler.layers.trace import render_trace

# From the format's description ("Trace Event Format", Chromium): required fields of each phase, with their types.
NUMBER = (int, float)
COMMON = {"name": str, "ph": str, "pid": int}
PHASES: dict[str, dict[str, Any]] = {
    "X": {"ts": NUMBER, "dur": NUMBER, "tid": int, "cat": str, "args": dict},
    "C": {"ts": NUMBER, "args": dict},
    "M": {"args": dict},
}
METADATA = {"process_name", "thread_name"}


@pytest.fixture(scope="module")
def report(tiny_bundle: Path) -> Report:
    """Return a profile with overlaps."""
    settings = Settings(tiny_bundle, sampler="ddim", steps=2, chunks=4, warmup=0, decoding="overlapped", roofline=False)
    return profile(settings)


@pytest.fixture(scope="module")
def events(report: Report) -> list[dict[str, Any]]:
    """Return the trace's events."""
    document = json.loads(render_trace(report))
    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    loaded: list[dict[str, Any]] = document["traceEvents"]
    return loaded


def test_every_event_conforms_to_the_format(events: list[dict[str, Any]]) -> None:
    for event in events:
        wanted = COMMON | PHASES[event["ph"]]
        assert set(event) >= set(wanted) and set(event) <= {*wanted, "tid"}
        assert all(isinstance(event[name], kind) and not isinstance(event[name], bool) for name, kind in wanted.items())
        assert event.get("ts", 0) >= 0 and event.get("dur", 0) >= 0
        assert event["ph"] != "M" or event["name"] in METADATA
        assert event["ph"] != "C" or all(isinstance(value, NUMBER) for value in event["args"].values())


def test_every_span_is_an_event_of_its_length(events: list[dict[str, Any]], report: Report) -> None:
    drawn = [event for event in events if event["ph"] == "X"]

    assert len(drawn) == len(report.spans)
    for stage in ("chunk", "step", "fill", "scatter", "noise", "decode"):
        wanted = sorted(round(1e3 * span.milliseconds, 3) for span in report.spans if span.stage == stage)
        assert sorted(event["dur"] for event in drawn if event["cat"] == stage) == pytest.approx(wanted, abs=0.001)
    assert {event["name"] for event in drawn if event["cat"] == "step"} == {"step 0", "step 1"}


def test_events_of_one_track_nest(events: list[dict[str, Any]]) -> None:
    """Both viewers drop or misplace an event that begins in another one and ends after it."""
    for track in (1, 2):
        open_until: list[float] = []
        for event in sorted(
            (event for event in events if event["ph"] == "X" and event["tid"] == track),
            key=lambda event: (event["ts"], -event["dur"]),
        ):
            while open_until and open_until[-1] <= event["ts"] + 1:
                open_until.pop()
            end = event["ts"] + event["dur"]
            assert not open_until or end <= open_until[-1] + 1, event
            open_until.append(end)


def test_the_counter_shows_the_cached_latent_frames(events: list[dict[str, Any]]) -> None:
    assert [event["args"]["latent frames"] for event in events if event["ph"] == "C"] == [1, 4, 7, 7]


def test_tracks_are_named(events: list[dict[str, Any]]) -> None:
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}

    assert names == {1: "session", 2: "codec"}
