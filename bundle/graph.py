"""The ONNX graphs of a bundle: files, tensors and costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from .artifact import Artifact
from .model import CACHE_ROLES, Role, TensorSpec
from .precision import FP8, EightBits

__all__ = ["CacheCopy", "Graph"]


@dataclass(frozen=True)
class CacheCopy:
    """A node that copies the KV cache, with the bytes that it writes in each run of the graph."""

    node: str
    operator: str
    tensor: str
    nbytes: int


@dataclass(frozen=True)
class Graph:
    """An ONNX graph of the bundle.

    Attributes:
        file: The graph.
        weights: The external data file of its initializers, shared by graphs of one precision. None if they are inside.
        inputs: Tensors it reads.
        outputs: Tensors it writes.
        flops: Floating-point operations of one run: two for each multiply-add of its matrix products.
        nbytes_moved: Bytes of inputs, outputs and weights of one run, for a roofline.
        cache_copies: Nodes that copy the cache; ideally empty.
        quantized: The 8 bit type of its linears; None where they are floating point.
        calls: Number of calls of each function of the domain ``vdmrt``, by function name.
    """

    file: Artifact
    weights: Artifact | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    flops: int
    nbytes_moved: int
    cache_copies: tuple[CacheCopy, ...] = ()
    quantized: EightBits | None = None
    calls: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_fp8(self) -> bool:
        """Whether its linears or its cache are FP8."""
        return self.quantized == FP8 or any(spec.dtype == "float8_e4m3fn" for spec in self.inputs)

    def with_role(self, *roles: Role) -> tuple[TensorSpec, ...]:
        """Return the inputs and then the outputs that have one of the roles, in the graph's order."""
        return tuple(spec for spec in (*self.inputs, *self.outputs) if spec.role in roles)

    def tensor(self, role: Role, layer: int | None = None) -> TensorSpec:
        """Return the tensor of a role, and of a layer where several have the role.

        Raises:
            KeyError: The graph has none.
        """
        for spec in self.with_role(role):
            if spec.layer == layer:
                return spec
        raise KeyError(f"{self.file.file} has no tensor of role {role}" + ("" if layer is None else f", layer {layer}"))

    @property
    def cache_element_nbytes(self) -> int:
        """Bytes of one element of the KV cache."""
        spec = self.with_role(*CACHE_ROLES)[0]
        return spec.nbytes // math.prod(spec.shape)
