"""Models, lanes and sessions: from a loaded bundle to chunks of latents."""

from __future__ import annotations
