"""Backend interface: a backend, the programs that it loads, and their calls.

A backend has a device and loads programs; a program is a graph with named tensors; a call is a program bound to tensor
addresses. To observe or change runs, wrap these three: each method of a wrapper calls the wrapped method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .._core import Device
    from .layer_times import LayerTime
    from .stage_source import StageSource

__all__ = ["Backend", "Call", "Program", "TimedProgram", "TimesLayers"]


class Call(Protocol):
    """A program bound to tensor addresses on one queue. The caller owns the memory."""

    def enqueue(self) -> None:
        """Run once after earlier work of the queue; on a GPU return before the work is done.

        Raises:
            DeviceError: The run failed.
            RuntimeError: The call is closed.
        """
        ...

    def close(self) -> None:
        """Release the call's resources; the queue must be idle. Closing twice is allowed."""
        ...


class Program(Protocol):
    """A loaded graph. Any number of queues may run it, in any number of threads.

    Attributes:
        scratch_nbytes: Bytes of scratch memory that a queue's calls need from the caller; 0 if none.
        capturable: Whether enqueueing may be captured into a CUDA graph.
    """

    @property
    def scratch_nbytes(self) -> int: ...  # noqa: D102

    @property
    def capturable(self) -> bool: ...  # noqa: D102

    def bind(self, device: Device, addresses: Mapping[str, int], scratch: int = 0) -> Call:
        """Bind every input and output to an address.

        Args:
            device: The queue that the call runs on. Calls of one queue are enqueued one at a time.
            addresses: Addresses by tensor name; names of other tensors are ignored.
            scratch: Address of ``scratch_nbytes`` bytes that the caller keeps alive, or 0 if none are needed. Calls of
                one queue may share them.

        Raises:
            TensorMismatchError: A tensor has no address, or one without the alignment that the backend requires.
            DeviceError: There is not enough memory for the call.
        """
        ...

    def close(self) -> None:
        """Unload the graph, whose calls have been closed. Closing twice is allowed."""
        ...


class Backend(Protocol):
    """A library that runs graphs on a device.

    Attributes:
        name: Its name in :data:`~vdmrt.bundle.BACKENDS`.
        device_name: Name of the device: "host", or "cuda:0" and so on.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def device_name(self) -> str: ...  # noqa: D102

    def describe(self) -> str:
        """Return library, version and device in one line."""
        ...

    def open_device(self) -> Device:
        """Open a queue for a lane or the codec: a separate one if the backend supports several.

        Raises:
            DeviceError: The device cannot be opened.
        """
        ...

    def load(self, source: StageSource) -> Program:
        """Load a stage whose files were checked.

        Raises:
            BundleError: The graph differs from its description in model.json.
            BackendError: The backend refuses it.
        """
        ...

    def close(self) -> None:
        """Release the remaining resources, after all programs were closed. Closing twice is allowed."""
        ...


class TimedProgram(Program, Protocol):
    """A program that runs with its backend's profiler on, and is not captured."""

    def layer_times(self) -> list[LayerTime]:
        """Return the layers that ran, in order of execution; ends the recording."""
        ...


@runtime_checkable
class TimesLayers(Protocol):
    """A program whose layers can be timed; not every backend supports it."""

    def timed(self) -> TimedProgram:
        """Return a program of the same graph with the profiler on; close it before this one."""
        ...
