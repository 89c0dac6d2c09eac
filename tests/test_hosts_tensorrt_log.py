"""TensorRT's log is forwarded to Python's logging and added to later errors."""

from __future__ import annotations

import logging
import threading

import pytest
from tensorrt_recorder import RELEASES, install

from vdmrt.hosts.tensorrt.log import TensorRtLog


def test_the_log_maps_severities_and_keeps_errors(caplog: pytest.LogCaptureFixture) -> None:
    for release in RELEASES:
        caplog.clear()
        with install(release) as recorder, caplog.at_level(logging.DEBUG, logger="vdmrt"):
            log = TensorRtLog(recorder.module)
            severities = recorder.module.ILogger.Severity.__members__
            for name, severity in severities.items():
                log.logger.log(severity, f"about {name}")

            levels = {record.getMessage(): record.levelname for record in caplog.records}
            assert levels == {
                "TensorRT: about INTERNAL_ERROR": "DEBUG",
                "TensorRT: about ERROR": "DEBUG",
                "TensorRT: about WARNING": "WARNING",
                "TensorRT: about INFO": "DEBUG",
                "TensorRT: about VERBOSE": "DEBUG",
            }
            assert log.take_errors() == "about INTERNAL_ERROR; about ERROR"
            assert log.take_errors() == "TensorRT gave no reason"


def test_the_log_keeps_threads_apart_and_never_raises() -> None:
    with install("10.3") as recorder:
        log = TensorRtLog(recorder.module)
        error = recorder.module.ILogger.ERROR
        found: list[str] = []

        def work() -> None:
            log.logger.log(error, "theirs")
            ready.set()
            go_on.wait(5)
            found.append(log.take_errors())

        ready, go_on = threading.Event(), threading.Event()
        thread = threading.Thread(target=work)
        thread.start()
        assert ready.wait(5)
        log.logger.log(error, "mine")
        assert log.take_errors() == "mine"
        go_on.set()
        thread.join()
        log.logger.log(object(), "no severity at all")

        assert found == ["theirs"]
        log.logger.log(error, "elsewhere")
        other: list[str] = []
        last = threading.Thread(target=lambda: other.append(log.take_errors()))
        last.start()
        last.join()
        assert other == ["elsewhere"]


def test_a_builders_warnings_are_for_debugging_and_skipped_kernels_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with install("10.3") as recorder, caplog.at_level(logging.DEBUG, logger="vdmrt"):
        log = TensorRtLog(recorder.module, building=True)
        severity = recorder.module.ILogger.Severity
        log.logger.log(severity.WARNING, "Skipping tactic 3 due to insufficient memory on requested size of 1 GiB.")
        log.logger.log(severity.WARNING, "a TF32 hint")
        log.logger.log(severity.VERBOSE, "a tactic")

    assert {record.levelname for record in caplog.records} == {"DEBUG"}
    assert not any("a tactic" in line for line in caplog.messages)
    assert (log.take_skipped(), log.take_skipped()) == (1, 0)


def test_an_error_that_is_repeated_is_reported_once() -> None:
    with install("10.3") as recorder:
        log = TensorRtLog(recorder.module)
        for message in ("no kernel", "no kernel", "no engine"):
            log.logger.log(recorder.module.ILogger.Severity.ERROR, message)

    assert log.take_errors() == "no kernel; no engine"
