"""The strict recorder of TensorRT: a release's names and no other, the order of its calls, and its failures.

It computes nothing and never counts as TensorRT having run. ``with install("10.3") as recorder:`` puts it in the place
of the module ``tensorrt``.
"""

from __future__ import annotations

from .names import RELEASES
from .natives import RecorderError
from .plans import make_plan
from .recorder import Call, Recorder, install

__all__ = ["RELEASES", "Call", "Recorder", "RecorderError", "install", "make_plan"]
