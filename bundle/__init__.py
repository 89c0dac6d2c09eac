"""The bundle: one folder that every stage reads and adds to. Nothing else passes between the stages."""

from __future__ import annotations

from .folder import Bundle, BundleWriter, new_bundle, open_bundle, sha256_of
from .manifest import (
    SCHEMA,
    Artifact,
    CacheCopy,
    Codec,
    Geometry,
    Graph,
    Manifest,
    Precision,
    SamplerDefaults,
    ScheduleSpec,
    TensorSpec,
)

__all__ = [
    "SCHEMA",
    "Artifact",
    "Bundle",
    "BundleWriter",
    "CacheCopy",
    "Codec",
    "Geometry",
    "Graph",
    "Manifest",
    "Precision",
    "SamplerDefaults",
    "ScheduleSpec",
    "TensorSpec",
    "new_bundle",
    "open_bundle",
    "sha256_of",
]
