"""The bundle: one folder that every stage reads and adds to. Nothing else passes between the stages."""

from __future__ import annotations

from .folder import Bundle, BundleWriter, amended_bundle, new_bundle, open_bundle, rewrite_manifest, sha256_of
from .manifest import (
    SCHEMA,
    Accuracy,
    Artifact,
    CacheCopy,
    Calibration,
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
    "Accuracy",
    "Artifact",
    "Bundle",
    "BundleWriter",
    "CacheCopy",
    "Calibration",
    "Codec",
    "Geometry",
    "Graph",
    "Manifest",
    "Precision",
    "SamplerDefaults",
    "ScheduleSpec",
    "TensorSpec",
    "amended_bundle",
    "new_bundle",
    "open_bundle",
    "rewrite_manifest",
    "sha256_of",
]
