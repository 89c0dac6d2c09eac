"""What an engine's ``manifest.json`` says: what was built, from what, and for which machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..artifact import Artifact
from ..model import TensorSpec
from ..precision import Precision

__all__ = ["ENGINE_SCHEMA", "Check", "EngineManifest", "LayerCopy", "Machine", "Plan", "PlanAudit"]

ENGINE_SCHEMA = 1


@dataclass(frozen=True)
class Machine:
    """What an engine is bound to; what its backend does not know is "".

    Attributes:
        tensorrt: TensorRT's version, as "10.3.0".
        compute_capability: The GPU's, as "9.0".
        gpu: The GPU's name.
        cuda: The newest CUDA that the driver runs, as "13.0"; recorded, never compared.
        driver: The driver's version, as "580.65.06", or "" where it is not known; recorded, never compared.
        onnxruntime: ONNX Runtime's version, as "1.32.0".
        provider: Its execution provider, as "CPUExecutionProvider".
        cpu: Architecture and instruction sets, as :func:`~vdmrt.hosts.cpu.describe_cpu` says them.
    """

    tensorrt: str = ""
    compute_capability: str = ""
    gpu: str = ""
    cuda: str = ""
    driver: str = ""
    onnxruntime: str = ""
    provider: str = ""
    cpu: str = ""

    @property
    def backend(self) -> Literal["tensorrt", "onnxruntime"]:
        """Whose engines it runs."""
        return "onnxruntime" if self.onnxruntime else "tensorrt"


@dataclass(frozen=True)
class LayerCopy:
    """A layer of a built plan that only moves a cached tensor: so many bytes at each run."""

    layer: str
    kind: str
    tensor: str
    nbytes: int


@dataclass(frozen=True)
class PlanAudit:
    """What the engine inspector says of a plan.

    Attributes:
        layers: How many there are.
        precisions: Layers by the type of their first output.
        products: Layers that multiply matrices, by the type they run in.
        unknown_products: Layers that multiply matrices and whose type the inspector does not say.
        cache_copies: Layers that only move the KV cache.
    """

    layers: int
    precisions: Mapping[str, int]
    products: Mapping[str, int]
    unknown_products: int = 0
    cache_copies: tuple[LayerCopy, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A built stage.

    Attributes:
        file: The plan, relative to the engine's folder; of ONNX Runtime an optimized graph.
        graph_sha256: Of the bundle's graph that it was built from.
        weights_sha256: Of the weights beside that graph, or None where it has none.
        inputs: Tensors that it reads.
        outputs: Tensors that it writes.
        scratch_nbytes: Device memory that each execution context needs.
        build_seconds: How long the builder took.
        audit: What its layers run in; None where nothing said it.
        weights: The engine's own weights, a file that its stages share; None where the plan needs none.
        forms: How many calls of each function took which form, by the function's name; None where it was not recorded.
    """

    file: Artifact
    graph_sha256: str
    weights_sha256: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    scratch_nbytes: int
    build_seconds: float
    audit: PlanAudit | None = None
    weights: Artifact | None = None
    forms: Mapping[str, Mapping[str, int]] | None = None


@dataclass(frozen=True)
class Check:
    """A check that ran after the build.

    Attributes:
        name: As "agrees".
        passed: Whether it held.
        detail: What was measured against what, for people.
        required: Whether an engine that fails it is never run; else it is only said.
    """

    name: str
    passed: bool
    detail: str
    required: bool = True


@dataclass(frozen=True)
class EngineManifest:
    """What an engine's ``manifest.json`` says.

    Attributes:
        key: The engine's name: everything that would make another plan stands in it, as text or as a hash.
        backend: What built it and runs it.
        precision: Of the graphs.
        machine: What it was built on.
        plans: By stage: "fill", "denoise" and, with a codec, "vae_encode" and "vae_decode".
        options: Of the build, for people.
        hardware_compatibility: On which other GPUs it runs.
        version_compatible: Whether newer TensorRT up to the next major may run it, with a lean runtime of its own.
        stripped: Whether the plans hold no weights and need a refit before they run.
        schema: Version of this format.
        created: When, in UTC.
        checks: What ran after the build.
    """

    key: str
    backend: Literal["tensorrt", "onnxruntime"]
    precision: Precision
    machine: Machine
    plans: Mapping[str, Plan]
    options: Mapping[str, str]
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    version_compatible: bool = False
    stripped: bool = False
    schema: int = field(default=ENGINE_SCHEMA)
    created: str = ""
    checks: tuple[Check, ...] = ()
