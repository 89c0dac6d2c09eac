"""Kernels that TensorRT for RTX compiled on this machine for a plan, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from typing import TYPE_CHECKING, Any

from ....bundle import cache_folder, is_private, write_file
from ....errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from ....bundle import Machine
    from ....hosts.tensorrt.log import TensorRtLog

__all__ = ["KernelCache"]

_log = logging.getLogger("vdmrt")


class KernelCache:
    """The runtime cache of one plan, shared by its execution contexts.

    It is saved after a context has compiled kernels, and by its backend at the end. Another GPU, driver or release has
    another file; kernels of a file that TensorRT for RTX does not accept are compiled again. A file that cannot be read
    or written costs time, not correctness, so that is only logged.

    Attributes:
        path: The file, which may not exist yet.
    """

    __slots__ = ("_cache", "_library_log", "_saved", "path")

    def __init__(self, machine: Machine, sha256: str, log: TensorRtLog) -> None:
        """Store what the file depends on; it is read by the first :meth:`attach`.

        Args:
            machine: Release, GPU and driver.
            sha256: Hash of the plan.
            log: Log of the library, for its reasons.
        """
        parts = machine.tensorrt_rtx, f"sm{machine.compute_capability}", machine.gpu, machine.driver or machine.cuda
        name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts))
        self.path: Path = cache_folder() / "kernels" / name / sha256
        self._library_log = log
        self._cache: Any = None
        self._saved = ""

    def attach(self, config: Any) -> None:
        """Let a context that will be created with an IRuntimeConfig use the cache; its device must be current."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._cache is not None:
                self._read()
        if self._cache is None or not config.set_runtime_cache(self._cache):
            self._cache = None
            _log.warning("compiled kernels are not kept: %s", self._library_log.take_errors())

    def save(self) -> None:
        """Write the file if there are new kernels, atomically; the device must be current."""
        content = self._cache.serialize() if self._cache is not None else None
        if content is None:
            return
        data = bytes(memoryview(content))
        digest = hashlib.sha256(data).hexdigest()
        if digest == self._saved:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(self.path, data, fail=EngineError)
            self.path.chmod(0o600)
        except (OSError, EngineError) as error:
            _log.warning("compiled kernels are not kept, so that the next start compiles them again: %s", str(error))
        self._saved = digest

    def release(self) -> None:
        """Release the runtime cache, after the contexts that use it and before the runtime."""
        self._cache = None

    def _read(self) -> None:
        if not is_private(self.path):
            if os.path.lexists(self.path):
                _log.warning("%s: is not used: others may have written it; kernels are compiled again", self.path)
            return
        try:
            content = self.path.read_bytes()
        except OSError as error:
            _log.warning("%s: cannot be read: %s; kernels are compiled again", self.path, error.strerror)
            return
        if self._cache.deserialize(content):
            self._saved = hashlib.sha256(content).hexdigest()
        else:
            reason = self._library_log.take_errors()
            _log.warning("%s: does not fit, or is damaged: %s; kernels are compiled again", self.path, reason)
