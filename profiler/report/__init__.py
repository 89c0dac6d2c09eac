"""Reports of a profile as JSON, text and an HTML page."""

from __future__ import annotations
