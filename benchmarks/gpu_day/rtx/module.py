"""NVIDIA's Python module of TensorRT for RTX, and what it logs while it works."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from ..running.record import Missing

__all__ = ["Rtx", "import_rtx"]

_NAMES = ("tensorrt_rtx", "tensorrt_rtx_bindings")


class Rtx:
    """The module with the log of this process.

    Attributes:
        trt: The module.
        log: Its logger; the first one that a process makes is the only one that TensorRT uses.
    """

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self._lines: list[tuple[int, str]] = []
        lines = self._lines

        class Log(trt.ILogger):  # type: ignore[misc]  # the module is known at run time only
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                lines.append((int(severity), message))

        self.log = Log()

    def errors(self) -> list[str]:
        """Return what was logged as an error since :meth:`forget`."""
        worst = int(self.trt.ILogger.ERROR)
        return [message for severity, message in self._lines if severity <= worst]

    def forget(self) -> None:
        """Empty the log before something new begins."""
        self._lines.clear()

    def build(self, graph: str, targets: Sequence[str] = ()) -> bytes:
        """Build the plan of an ONNX file; needs no GPU unless a target is "CURRENT".

        Args:
            graph: Path of the ONNX file.
            targets: Members of ComputeCapability, "SM89"; none for a plan that fits every supported GPU.

        Raises:
            RuntimeError: It cannot be parsed or built, or a target is none of this release; with the log's errors.
        """
        self.forget()
        builder = self.trt.Builder(self.log)
        # Before the file is parsed, which takes seconds that a refused target would waste.
        config = self._configure(builder, targets)
        network = builder.create_network(0)
        parser = self.trt.OnnxParser(network, self.log)
        if not parser.parse_from_file(graph):
            raise RuntimeError(f"{graph} cannot be parsed: {parser.get_error(0)}")
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise RuntimeError(f"{graph} cannot be built for {targets or 'every GPU'}: {self.errors()}")
        return bytes(plan)

    def _configure(self, builder: Any, targets: Sequence[str]) -> Any:
        config = builder.create_builder_config()
        if targets:
            config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            member = getattr(self.trt.ComputeCapability, target)
            if not config.set_compute_capability(member, index):
                raise RuntimeError(f"{target} is refused as a target: {self.errors()}")
        return config


def import_rtx() -> Rtx:
    """Import the module under the name that is there.

    Raises:
        Missing: Neither is; it is carried by the kit "rtx", or installed by ``pip install tensorrt-rtx``.
    """
    reasons = []
    for name in _NAMES:
        try:
            return Rtx(importlib.import_module(name))
        except (ImportError, OSError) as error:
            reasons.append(str(error))
    raise Missing(f"TensorRT for RTX does not import: {'; '.join(reasons)}")
