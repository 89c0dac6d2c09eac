"""The waist between what runs a graph and all else: a backend loads programs, a program binds addresses to calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ..bundle import Bundle, Graph
from ._core import Device

__all__ = ["Backend", "Call", "Program"]


class Call(Protocol):
    """A program with every tensor's address set; the memory stays its owner's."""

    def enqueue(self) -> None:
        """Run once, in order after earlier work of the same lane.

        Raises:
            DeviceError: The run failed.
        """
        ...


class Program(Protocol):
    """A loaded graph. Any number of calls may share it, in any number of threads."""

    def bind(self, addresses: Mapping[str, int]) -> Call:
        """Set the address of every input and output by name.

        Raises:
            TensorMismatchError: A tensor has no address.
        """
        ...


class Backend(Protocol):
    """What runs graphs on a device.

    Attributes:
        name: "onnxruntime".
        device: Where tensors live.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def device(self) -> Device: ...  # noqa: D102

    def describe(self) -> str:
        """Say in one line what runs where."""
        ...

    def load(self, bundle: Bundle, graph: Graph) -> Program:
        """Load a graph of a bundle.

        Raises:
            BundleError: A file is missing, or the graph is not what model.json says.
            BackendError: The backend refuses the graph.
        """
        ...
