"""The engine manifest ``manifest.json``: what was built, from what, and for which machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..artifact import Artifact
from ..model import TensorSpec
from ..precision import Precision
from .backends import BackendName

__all__ = ["ENGINE_SCHEMA", "Check", "EngineManifest", "LayerCopy", "Machine", "Plan", "PlanAudit"]

ENGINE_SCHEMA = 1
_FASTER_THAN = "faster than"


@dataclass(frozen=True)
class Machine:
    """The software and hardware that an engine is bound to; "" for fields that its backend does not use.

    Attributes:
        tensorrt: TensorRT's version, as "10.3.0".
        compute_capability: The GPU's, as "9.0".
        gpu: The GPU's name.
        cuda: The newest CUDA that the driver runs, as "13.0"; recorded, never compared.
        driver: The driver's version, as "580.65.06", or "" where it is not known; recorded, never compared.
        onnxruntime: ONNX Runtime's version, as "1.32.0".
        provider: Its execution provider, as "CPUExecutionProvider".
        cpu: Architecture and instruction sets, as :func:`~vdmrt.hosts.cpu.describe_cpu` returns them; "" for other
            providers than the CPU's, whose graphs are optimized when they are loaded.
        tensorrt_rtx: Version of TensorRT for RTX, as "1.7.1.116"; its builds are bound to no GPU.
    """

    tensorrt: str = ""
    compute_capability: str = ""
    gpu: str = ""
    cuda: str = ""
    driver: str = ""
    onnxruntime: str = ""
    provider: str = ""
    cpu: str = ""
    tensorrt_rtx: str = ""

    @property
    def backend(self) -> BackendName:
        """The backend that runs its engines."""
        if self.onnxruntime:
            return "onnxruntime"
        return "tensorrt-rtx" if self.tensorrt_rtx else "tensorrt"

    @property
    def release(self) -> str:
        """Version of the library that runs its engines."""
        return self.onnxruntime or self.tensorrt_rtx or self.tensorrt


@dataclass(frozen=True)
class LayerCopy:
    """A layer of a built plan that only copies a cached tensor, with the bytes of each run."""

    layer: str
    kind: str
    tensor: str
    nbytes: int


@dataclass(frozen=True)
class PlanAudit:
    """The engine inspector's report of a plan, summarized.

    Attributes:
        layers: Number of layers.
        precisions: Layers by the type of their first output.
        products: Layers that multiply matrices, by the type they run in.
        unknown_products: Layers that multiply matrices in a type that the inspector does not report.
        cache_copies: Layers that only copy the KV cache.
        quantized_weights: Quantized weights of the graph.
        quantized_products: Those among them that a product reads in 8 bits, as it does its other operand.
        widened_weights: Those that no product reads so; the inspector hides how the remaining ones are multiplied.
    """

    layers: int
    precisions: Mapping[str, int]
    products: Mapping[str, int]
    unknown_products: int = 0
    cache_copies: tuple[LayerCopy, ...] = ()
    quantized_weights: int = 0
    quantized_products: int = 0
    widened_weights: int = 0

    def describe_weights(self) -> str:
        """Return in words how the quantized weights are multiplied."""
        hidden = self.quantized_weights - self.quantized_products - self.widened_weights
        words = f"{self.quantized_products} of {self.quantized_weights} quantized weights are multiplied in 8 bits"
        words += f", {self.widened_weights} widened first" * bool(self.widened_weights)
        return words + f", the layers of {hidden} are not listed" * bool(hidden)


@dataclass(frozen=True)
class Plan:
    """A built stage.

    Attributes:
        file: The plan, relative to the engine's folder; an optimized graph for ONNX Runtime.
        graph_sha256: SHA-256 of the bundle's graph that it was built from.
        weights_sha256: SHA-256 of that graph's weights file, or None without one.
        inputs: Tensors that it reads.
        outputs: Tensors that it writes.
        scratch_nbytes: Device memory that each execution context needs.
        build_seconds: How long the builder took.
        audit: Precisions of its layers; None where the inspector reported none.
        weights: The engine's own weights file, shared by its stages; None where the plan needs none.
        forms: Calls of each function by the form that replaced them, by function name; None where not recorded.
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
        passed: Whether it passed.
        detail: What was measured and compared with what, as text.
        required: Whether an engine that fails it never runs; otherwise the failure is only reported.
    """

    name: str
    passed: bool
    detail: str
    required: bool = True

    @classmethod
    def of_speed(cls, against: Precision, passed: bool, detail: str) -> Check:
        """Return the check that a quantized engine is faster than a floating point one of its bundle."""
        return cls(f"{_FASTER_THAN} {against}", passed, detail, required=False)

    @property
    def is_of_speed(self) -> bool:
        """Whether :meth:`of_speed` made it; the build fails where it did not pass and was not accepted."""
        return self.name.startswith(f"{_FASTER_THAN} ")


@dataclass(frozen=True)
class EngineManifest:
    """The content of an engine's ``manifest.json``.

    Attributes:
        key: The engine's name: contains everything that would change a plan, as text or as a hash.
        backend: The backend that built it and runs it.
        precision: Precision of the graphs.
        machine: The machine that it was built on.
        plans: By stage: "fill", "denoise" and, with a codec, "vae_encode" and "vae_decode".
        options: Build options, for people.
        hardware_compatibility: Other GPUs that it runs on.
        version_compatible: Whether TensorRT up to the next major may run it, with the lean runtime of its release.
        stripped: Whether the plans contain no weights and need a refit before they run.
        schema: Version of this format.
        created: Time of the build, in UTC.
        checks: Results of the checks that ran after the build.
        fully_checked: Whether they left nothing out to save time.
        layers: The list of the plans' layers, as JSON; None where the backend lists none.
        targets: Compute capabilities that the plans of TensorRT for RTX were built for, as "8.9"; none if portable.
    """

    key: str
    backend: BackendName
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
    fully_checked: bool = False
    layers: Artifact | None = None
    targets: tuple[str, ...] = ()
