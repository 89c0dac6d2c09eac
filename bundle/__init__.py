"""The bundle: the folder through which all stages exchange data. Every stage reads it and adds files to it."""

from __future__ import annotations

from .artifact import Artifact
from .blocks import find_blocks
from .engines.backends import BACKENDS, PROVIDERS, BackendName, BackendTraits, ProviderName
from .engines.engine import (
    ENGINE_MANIFEST,
    ENGINES_FOLDER,
    LAYERS_FILE,
    Engine,
    list_engines,
    open_engine,
    record_checks,
    stage_graphs,
)
from .engines.lookup import (
    engine_mismatches,
    find_engine,
    rebuild_command,
)
from .engines.manifest import (
    ENGINE_SCHEMA,
    Check,
    EngineManifest,
    LayerCopy,
    Machine,
    Plan,
    PlanAudit,
)
from .engines.plan_file import read_layers_file, read_plan, verify_engine, verify_engine_weights
from .engines.targets import PORTABLE_TARGETS, RTX_TARGETS, has_fp8, parse_target, runs_on
from .engines.trust import cache_folder, check_trust_folder, is_private, is_trusted, record_trust
from .engines.versions import version_numbers
from .folder import (
    Bundle,
    BundleWriter,
    amended_bundle,
    check_bundle_place,
    new_bundle,
    open_bundle,
)
from .graph import CacheCopy, Graph
from .manifest import (
    SCHEMA,
    Calibration,
    Manifest,
    SamplerDefaults,
    ScheduleSpec,
)
from .measured import Accuracy, Measured, Speed, describe_speed, read_measured, record_measured
from .model import (
    CACHE_ROLES,
    NEXT_STATE,
    CacheLayout,
    CachePolicy,
    CacheProjections,
    Geometry,
    ParameterNames,
    PositionScheme,
    Role,
    Stage,
    TensorSpec,
)
from .operators import FUNCTION_DOMAIN, OLDEST_PARSER_OPSET, find_unsupported
from .precision import EIGHT_BITS, EXPORTED, FP8, FP16, FP16_MIXED, FP32, INT8, PRECISIONS, EightBits, Precision
from .quantities import format_count, format_flops, format_nbytes
from .resolution import choose_measured_precision, choose_precision, precision_candidates
from .room import check_amendable
from .storage.decoding import decode, encode
from .storage.external_data import check_external_data, read_fields
from .storage.files import (
    DISK_FULL,
    PartFile,
    check_writable,
    explained_writing,
    is_part,
    link_or_copy,
    part_folder,
    replace_folder,
    replaced_file,
    sha256_of,
    write_error,
    write_file,
)
from .storage.interruption import uninterrupted
from .storage.locking import locked

__all__ = [
    "BACKENDS",
    "CACHE_ROLES",
    "DISK_FULL",
    "EIGHT_BITS",
    "ENGINES_FOLDER",
    "ENGINE_MANIFEST",
    "ENGINE_SCHEMA",
    "EXPORTED",
    "FP8",
    "FP16",
    "FP16_MIXED",
    "FP32",
    "FUNCTION_DOMAIN",
    "INT8",
    "LAYERS_FILE",
    "NEXT_STATE",
    "OLDEST_PARSER_OPSET",
    "PORTABLE_TARGETS",
    "PRECISIONS",
    "PROVIDERS",
    "RTX_TARGETS",
    "SCHEMA",
    "Accuracy",
    "Artifact",
    "BackendName",
    "BackendTraits",
    "Bundle",
    "BundleWriter",
    "CacheCopy",
    "CacheLayout",
    "CachePolicy",
    "CacheProjections",
    "Calibration",
    "Check",
    "EightBits",
    "Engine",
    "EngineManifest",
    "Geometry",
    "Graph",
    "LayerCopy",
    "Machine",
    "Manifest",
    "Measured",
    "ParameterNames",
    "PartFile",
    "Plan",
    "PlanAudit",
    "PositionScheme",
    "Precision",
    "ProviderName",
    "Role",
    "SamplerDefaults",
    "ScheduleSpec",
    "Speed",
    "Stage",
    "TensorSpec",
    "amended_bundle",
    "cache_folder",
    "check_amendable",
    "check_bundle_place",
    "check_external_data",
    "check_trust_folder",
    "check_writable",
    "choose_measured_precision",
    "choose_precision",
    "decode",
    "describe_speed",
    "encode",
    "engine_mismatches",
    "explained_writing",
    "find_blocks",
    "find_engine",
    "find_unsupported",
    "format_count",
    "format_flops",
    "format_nbytes",
    "has_fp8",
    "is_part",
    "is_private",
    "is_trusted",
    "link_or_copy",
    "list_engines",
    "locked",
    "new_bundle",
    "open_bundle",
    "open_engine",
    "parse_target",
    "part_folder",
    "precision_candidates",
    "read_fields",
    "read_layers_file",
    "read_measured",
    "read_plan",
    "rebuild_command",
    "record_checks",
    "record_measured",
    "record_trust",
    "replace_folder",
    "replaced_file",
    "runs_on",
    "sha256_of",
    "stage_graphs",
    "uninterrupted",
    "verify_engine",
    "verify_engine_weights",
    "version_numbers",
    "write_error",
    "write_file",
]
