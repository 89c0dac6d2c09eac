"""The strict recorder of TensorRT: exactly a release's names, its checks of call order, and its failures.

It computes nothing and does not show that TensorRT works. ``with install("10.3") as recorder:`` replaces the module
``tensorrt``, ``install(RTX)`` the module ``tensorrt_rtx``.
"""

from __future__ import annotations

from .names import RELEASES, RTX
from .natives import RecorderError
from .plans import make_plan
from .recorder import Call, Recorder, install

__all__ = ["RELEASES", "RTX", "Call", "Recorder", "RecorderError", "install", "make_plan"]
