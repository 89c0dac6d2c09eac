"""Signals are deferred, not lost, and their handlers are restored."""

from __future__ import annotations

import signal
import threading

import pytest

from vdmrt.bundle import uninterrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_deferred_until_the_block_ends(number: signal.Signals) -> None:
    done: list[str] = []

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(*done)

    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt, match="all of it"), uninterrupted(), uninterrupted():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append("all of it")
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with uninterrupted():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_failure_of_the_block_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="the block's"), uninterrupted():
        raise ValueError("the block's")


def test_other_threads_are_not_affected() -> None:
    found: list[object] = []

    def work() -> None:
        with uninterrupted():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]
