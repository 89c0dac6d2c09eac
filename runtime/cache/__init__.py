"""The KV cache of a lane: slots, windows and the undo log of rollback."""

from __future__ import annotations
