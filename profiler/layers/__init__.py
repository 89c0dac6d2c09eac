"""Times of single layers, and traces of them."""

from __future__ import annotations
