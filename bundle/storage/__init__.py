"""Files and folders: atomic writing and replacement, and checks before reading."""

from __future__ import annotations
