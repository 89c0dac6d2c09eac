"""Signals that end a command."""

from __future__ import annotations

import signal

import pytest

from vdmrt.console.signals import Terminated, exit_status, terminable


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_block_as_ctrl_c(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    with pytest.raises(KeyboardInterrupt, match=number.name) as caught, terminable():
        signal.raise_signal(number)

    assert isinstance(caught.value, Terminated)
    assert exit_status(caught.value) == 128 + number
    assert signal.getsignal(number) is before


def test_ctrl_c_has_its_own_status() -> None:
    assert exit_status(KeyboardInterrupt()) == 130


def test_an_ignored_sighup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
