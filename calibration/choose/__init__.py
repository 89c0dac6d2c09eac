"""Which layers stay in higher precision: sensitivity, bisection and guards."""

from __future__ import annotations
