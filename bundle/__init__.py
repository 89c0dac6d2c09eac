"""The bundle: one folder that every stage reads and adds to. Nothing else passes between the stages."""

from __future__ import annotations

from .cpu import describe_cpu
from .engine import (
    ENGINE_MANIFEST,
    ENGINES_FOLDER,
    Engine,
    list_engines,
    open_engine,
    record_checks,
    stage_graphs,
)
from .engine_lookup import check_engine, engine_mismatches, find_engine, rebuild_command
from .engine_manifest import ENGINE_SCHEMA, Check, EngineManifest, LayerCopy, Machine, Plan, PlanAudit
from .external_data import check_external_data, read_fields
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
    SamplerDefaults,
    ScheduleSpec,
    TensorSpec,
)
from .plan_file import read_plan, verify_engine, verify_engine_weights
from .precision import CACHE_SUFFIXES, Precision, split_precision
from .room import check_amendable
from .speed import Speed, describe_speed
from .trust import cache_folder, is_trusted, record_trust

__all__ = [
    "CACHE_SUFFIXES",
    "ENGINES_FOLDER",
    "ENGINE_MANIFEST",
    "ENGINE_SCHEMA",
    "SCHEMA",
    "Accuracy",
    "Artifact",
    "Bundle",
    "BundleWriter",
    "CacheCopy",
    "Calibration",
    "Check",
    "Codec",
    "Engine",
    "EngineManifest",
    "Geometry",
    "Graph",
    "LayerCopy",
    "Machine",
    "Manifest",
    "Plan",
    "PlanAudit",
    "Precision",
    "SamplerDefaults",
    "ScheduleSpec",
    "Speed",
    "TensorSpec",
    "amended_bundle",
    "cache_folder",
    "check_amendable",
    "check_engine",
    "check_external_data",
    "describe_cpu",
    "describe_speed",
    "engine_mismatches",
    "find_engine",
    "is_trusted",
    "list_engines",
    "new_bundle",
    "open_bundle",
    "open_engine",
    "read_fields",
    "read_plan",
    "rebuild_command",
    "record_checks",
    "record_trust",
    "rewrite_manifest",
    "sha256_of",
    "split_precision",
    "stage_graphs",
    "verify_engine",
    "verify_engine_weights",
]
