"""A measured run as JSON, text and a page."""

from __future__ import annotations
