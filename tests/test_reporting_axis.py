"""Axes: round ticks with distinct labels, for any range."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdmrt.reporting import Axis

NUMBERS = st.floats(-1e12, 1e12)


@given(st.lists(NUMBERS, max_size=8), st.booleans())
def test_labels_differ_and_values_are_placed_inside(values: list[float], rounded: bool) -> None:
    axis = Axis.cover(values, 100, 0, rounded=rounded)

    labels = [label for _, label in axis.ticks]
    assert len(set(labels)) == len(labels) > 0
    assert all(-1e-3 <= axis.place(value) <= 100 + 1e-3 for value in [*values, *(tick for tick, _ in axis.ticks)])


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([1, 20], ["5", "10", "15", "20"]),
        ([0.9999999, 0.99999995], ["0.99999990", "0.99999991", "0.99999992", "0.99999993", "0.99999994", "0.99999995"]),
        ([0, 3e-5], ["0", "5.0e-06", "1.0e-05", "1.5e-05", "2.0e-05", "2.5e-05", "3.0e-05"]),
        ([0.0, 0.0], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([0.0, 5e-324], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([20.0, 20.0], ["19.0", "19.5", "20.0", "20.5", "21.0"]),
    ],
)
def test_ticks_are_round_numbers(values: list[float], labels: list[str]) -> None:
    assert [label for _, label in Axis.cover(values, 0, 1).ticks] == labels


def test_counts_have_whole_ticks() -> None:
    axis = Axis.cover([0, 3], 0, 1, whole=True)

    assert [label for _, label in axis.ticks] == ["0", "1", "2", "3"]


def test_a_rounded_axis_starts_and_ends_at_a_tick() -> None:
    axis = Axis.cover([0.3, 7.7], 10, 90, rounded=True)

    assert (axis.place(axis.ticks[0][0]), axis.place(axis.ticks[-1][0])) == (10, 90)
