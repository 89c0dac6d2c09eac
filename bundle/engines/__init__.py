"""Engines in a bundle: their manifests, lookup, hashes and trust."""

from __future__ import annotations
