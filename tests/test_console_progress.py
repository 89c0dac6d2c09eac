"""Progress of long work without a terminal."""

from __future__ import annotations

import logging

import pytest

from vdmrt.console.progress import show_progress


def test_progress_is_logged_every_few_seconds(caplog: pytest.LogCaptureFixture) -> None:
    times = iter([0.0, 4.0, 6.0, 7.0, 12.0])
    caplog.set_level(logging.INFO, "vdmrt")

    with show_progress("observing, steps", clock=lambda: next(times)) as advance:
        for done in (1, 2, 3, 4):
            advance(done, 8)

    assert [record.message for record in caplog.records] == [
        "observing, steps: 2 of 8, 6 s",
        "observing, steps: 4 of 8, 12 s",
    ]


def test_the_place_is_logged_after_the_title(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vdmrt")

    with show_progress("generating, steps", interval_s=0) as advance:
        advance(7, 20, "chunk 2 of 4")

    assert caplog.records[0].message.startswith("generating, steps, chunk 2 of 4: 7 of 20, ")


def test_quiet_means_no_progress(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "vdmrt")

    with show_progress("observing, steps", interval_s=0) as advance:
        advance(1, 8)

    assert caplog.records == []
