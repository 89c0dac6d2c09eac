"""Formatting of quantities."""

from __future__ import annotations

import pytest

from vdmrt.bundle import format_count, format_flops, format_nbytes

KIB, MIB, GIB, TIB = (2 ** (10 * power) for power in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (5, "5 B"),
        (1023, "1023 B"),
        (2 * KIB, "2 KiB"),
        (7.031 * KIB, "7.03 KiB"),
        (999.6 * KIB, "1000 KiB"),
        (1003 * KIB, "1003 KiB"),
        (1023.9 * KIB, "1 MiB"),
        (99.96 * MIB, "100 MiB"),
        (5 * GIB, "5 GiB"),
        (10.5 * TIB, "10.5 TiB"),
        (5000 * TIB, "5000 TiB"),
    ],
)
def test_bytes_have_three_digits_and_no_exponent(nbytes: float, text: str) -> None:
    assert format_nbytes(nbytes) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 clips"), (1, "1 clip"), (2, "2 clips")])
def test_a_count_of_one_is_singular(count: int, text: str) -> None:
    assert format_count(count, "clip") == text


@pytest.mark.parametrize(
    ("flops", "text"), [(999, "999 FLOP"), (4.807e9, "4.81 GFLOP"), (999.7e9, "1 TFLOP"), (1.234e18, "1234 PFLOP")]
)
def test_operations_have_three_digits_and_no_exponent(flops: float, text: str) -> None:
    assert format_flops(flops) == text
