"""Long stages are logged every few seconds, short ones once."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from vdmrt.console.stages import show_stages


def wait_for(caplog: pytest.LogCaptureFixture, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(caplog.messages) < count and time.monotonic() < deadline:
        time.sleep(0.005)


def test_a_long_stage_is_logged_repeatedly(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vdmrt"), show_stages(interval_s=0.01) as begin:
        begin("tracing fill")
        wait_for(caplog, 3)

    assert caplog.messages[:3] == ["tracing fill", "tracing fill, 0 s", "tracing fill, 0 s"]


def test_short_stages_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vdmrt"), show_stages(interval_s=100) as begin:
        begin("tracing fill")
        begin("writing fill")

    assert caplog.messages == ["tracing fill", "writing fill"]


def test_the_thread_ends_with_the_block_also_after_an_error() -> None:
    with pytest.raises(KeyboardInterrupt), show_stages():
        raise KeyboardInterrupt

    assert [thread.name for thread in threading.enumerate() if thread.name == "vdmrt-stages"] == []
