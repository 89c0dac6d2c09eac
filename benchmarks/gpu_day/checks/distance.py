"""How far two results are apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["relative_error"]


def relative_error(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """Return the relative L2 error; NaN and Inf stay what they are."""
    wanted = wanted.astype(np.float64)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
