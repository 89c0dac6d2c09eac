"""Comparison of bundles of different models, which is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdmrt.calibration.verify.comparison import check_alike
from vdmrt.errors import CalibrationError
from vdmrt.runtime import load


def test_bundles_of_different_models_are_refused_with_what_differs(tiny_bundle: Path, text_bundle: Path) -> None:
    with load(tiny_bundle) as tiny, load(text_bundle) as text:
        check_alike(tiny, tiny)
        with pytest.raises(CalibrationError) as caught:
            check_alike(tiny, text)

    assert str(caught.value).startswith("the two bundles are of different models: tokens_per_frame 6 and 4, ")
    assert "slots 7 and 4" in str(caught.value) and "Geometry" not in str(caught.value)
