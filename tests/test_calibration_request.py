"""The request of a calibration: names of the files that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdmrt.bundle import EightBits
from vdmrt.calibration.request import CalibrationRequest, Target


@pytest.mark.parametrize(
    ("precision", "kv", "stem"),
    [("int8", None, "int8"), ("int8", "int8", "int8-kv8"), ("fp8", "fp8", "fp8-kvf8"), ("none", "fp8", "kvf8")],
)
def test_the_stem_names_what_is_in_8_bits(precision: Target, kv: EightBits | None, stem: str) -> None:
    assert CalibrationRequest(Path("bundle"), Path("clips"), precision, kv=kv).stem == stem
