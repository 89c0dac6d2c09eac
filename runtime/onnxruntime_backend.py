"""Runs graphs on ONNX Runtime's CPU provider, with every tensor bound by address."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Bundle, Graph
from ..errors import BackendError, BundleError, DeviceError, TensorMismatchError
from ._core import Device, host_device
from ._distributions import onnxruntime_distributions
from .external_data import check_external_data

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OnnxRuntimeBackend"]

_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int32)": "int32", "tensor(int8)": "int8"}


class OnnxRuntimeBackend:
    """ONNX Runtime on the CPU.

    Attributes:
        name: "onnxruntime".
        device: The host.
        threads: Threads of each program's own pool.
    """

    name = "onnxruntime"

    def __init__(self, *, threads: int | None = None, spinning: bool = False) -> None:
        """Import ONNX Runtime.

        Args:
            threads: Threads of a product; None takes one for each CPU this process may use.
            spinning: Whether idle threads wait busily. A few percent faster, at the price of full CPUs.

        Raises:
            BackendError: ONNX Runtime is not installed, or is installed twice.
            ValueError: ``threads`` is not positive.
        """
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self._module = _import_onnxruntime()
        self.device: Device = host_device()
        self.threads = threads or len(os.sched_getaffinity(0))
        self._spinning = spinning

    def describe(self) -> str:
        """Say in one line what runs where."""
        return f"ONNX Runtime {self._module.__version__}, CPU provider, {self.threads} threads"

    def load(self, bundle: Bundle, graph: Graph) -> OnnxRuntimeProgram:
        """Load a graph of a bundle.

        Raises:
            BundleError: A file is missing or its weights lie elsewhere, or the graph is not what model.json says.
            BackendError: ONNX Runtime refuses the graph.
        """
        path = bundle.locate(graph.file)
        weights = bundle.locate(graph.weights).name if graph.weights else None
        check_external_data(path, weights)
        try:
            session = self._module.InferenceSession(str(path), self._options(graph), providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class
            raise BackendError(f"{path}: ONNX Runtime {self._module.__version__} refuses it: {error}") from error
        program = OnnxRuntimeProgram(session, graph)
        program.check(path)
        return program

    def _options(self, graph: Graph) -> onnxruntime.SessionOptions:
        options = self._module.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spinning else "0")
        if graph.quantised == "fp8":
            # The CPU provider has no FP8 products: the pairs stay and round, which shows the accuracy, not the speed.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        return options


class OnnxRuntimeProgram:
    """A graph loaded by ONNX Runtime."""

    def __init__(self, session: Any, graph: Graph) -> None:
        self._session = session
        self._graph = graph

    def check(self, path: Path) -> None:
        """Hold the loaded graph against the tensor table of model.json.

        Raises:
            BundleError: A name, dtype or shape differs.
        """
        for found, wanted in (
            (self._session.get_inputs(), self._graph.inputs),
            (self._session.get_outputs(), self._graph.outputs),
        ):
            have = {(tensor.name, _TYPES.get(tensor.type, tensor.type), tuple(tensor.shape)) for tensor in found}
            want = {(spec.name, spec.dtype, spec.shape) for spec in wanted}
            for tensor in have ^ want:
                side = "the graph" if tensor in have else "model.json"
                raise BundleError(
                    f"only {side} has '{tensor[0]}' {tensor[1]} {list(tensor[2])}; export the bundle again",
                    path=path,
                )

    def bind(self, addresses: Mapping[str, int]) -> OnnxRuntimeCall:
        """Set the address of every input and output by name.

        Raises:
            TensorMismatchError: A tensor has no address.
        """
        binding = self._session.io_binding()
        for specs, bind in (
            (self._graph.inputs, binding.bind_input),
            (self._graph.outputs, binding.bind_output),
        ):
            for spec in specs:
                if spec.name not in addresses:
                    raise TensorMismatchError(spec.name, "has no address")
                bind(spec.name, "cpu", 0, np.dtype(spec.dtype).type, list(spec.shape), addresses[spec.name])
        return OnnxRuntimeCall(self._session, binding)


class OnnxRuntimeCall:
    """A loaded graph with its addresses."""

    def __init__(self, session: Any, binding: Any) -> None:
        self._session = session
        self._binding = binding

    def enqueue(self) -> None:
        """Run once and wait; ONNX Runtime releases the GIL.

        Raises:
            DeviceError: ONNX Runtime reports a failure.
        """
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # its exceptions share no base class
            raise DeviceError(f"ONNX Runtime failed: {error}", call="run") from error


def check_distributions(found: Sequence[str]) -> None:
    """Check that one distribution owns the module ``onnxruntime``.

    Raises:
        BackendError: There is none, or several, which overwrite each other's files.
    """
    if not found:
        raise BackendError("ONNX Runtime is not installed; install it with pip install 'vdmrt[cpu]'")
    if len(found) > 1:
        raise BackendError(
            f"{' and '.join(found)} are both installed and overwrite each other's files; "
            f"run pip uninstall -y {' '.join(found)}, then pip install 'vdmrt[cpu]'"
        )


def _import_onnxruntime() -> Any:
    check_distributions(onnxruntime_distributions())
    import onnxruntime  # heavy: only where a bundle is run

    return onnxruntime
