"""Running a stream of chunks and recording its times, memory and power."""

from __future__ import annotations
