"""The waist between what runs a graph and all else: a backend loads programs, a context runs one on one queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ...bundle import Bundle, Graph
from .._core import Device

__all__ = ["Backend", "Call", "ExecutionContext", "Program"]


class Call(Protocol):
    """A program with every tensor's address set; the memory stays its owner's."""

    def enqueue(self) -> None:
        """Run once, in order after earlier work of the context's queue; on a GPU it returns before the work is done.

        Raises:
            DeviceError: The run failed.
        """
        ...


class ExecutionContext(Protocol):
    """A program on one queue with one scratch memory. Its calls are enqueued one at a time."""

    def bind(self, addresses: Mapping[str, int]) -> Call:
        """Set the address of every input and output by name.

        Raises:
            TensorMismatchError: A tensor has no address, or one that is not aligned as the backend wants.
        """
        ...

    def close(self) -> None:
        """Give back what the backend holds for it. Closing twice is allowed."""
        ...


class Program(Protocol):
    """A loaded graph. Any number of contexts may share it, in any number of threads.

    Attributes:
        scratch_nbytes: Bytes of device memory that each context must be given; 0 where it brings its own.
        capturable: Whether enqueueing may be captured into a CUDA graph.
    """

    @property
    def scratch_nbytes(self) -> int: ...  # noqa: D102

    @property
    def capturable(self) -> bool: ...  # noqa: D102

    def create_context(self, device: Device, scratch: int) -> ExecutionContext:
        """Make an execution context.

        Args:
            device: The queue that it runs on.
            scratch: Address of ``scratch_nbytes`` bytes that the caller keeps alive, or 0 where none are wanted.
                Contexts of one queue may share them.

        Raises:
            DeviceError: There is not enough memory for it.
        """
        ...

    def close(self) -> None:
        """Unload the graph, whose contexts have been closed. Closing twice is allowed."""
        ...


class Backend(Protocol):
    """What runs graphs on a device.

    Attributes:
        name: "onnxruntime" or "tensorrt".
        device_name: What it runs on: "host", or "cuda:0" and so on.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def device_name(self) -> str: ...  # noqa: D102

    def describe(self) -> str:
        """Say in one line what runs where."""
        ...

    def open_device(self) -> Device:
        """Open a queue for a lane or the codec: its own, where the backend can run on several.

        Raises:
            DeviceError: The device cannot be opened.
        """
        ...

    def load(self, bundle: Bundle, stage: str, graph: Graph) -> Program:
        """Load a graph of a bundle.

        Args:
            bundle: Whose graph it is.
            stage: "fill", "denoise", "vae_encode" or "vae_decode".
            graph: Its row of model.json.

        Raises:
            BundleError: A file is missing, or the graph is not what model.json says.
            BackendError: The backend refuses the graph.
        """
        ...

    def close(self) -> None:
        """Give back what is left, all programs being closed. Closing twice is allowed."""
        ...
