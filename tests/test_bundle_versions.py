"""Versions are compared as numbers."""

from __future__ import annotations

import pytest

from vdmrt.bundle import version_numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("10.3.0", (10, 3, 0)),
        ("2.13.0+cpu", (2, 13, 0)),
        ("1.21.0.dev20260101", (1, 21, 0)),
        ("1.20rc1", (1, 20)),
        ("9", (9,)),
        ("unknown", ()),
        ("", ()),
    ],
)
def test_a_version_begins_with_its_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert version_numbers(text) == numbers
