"""The sanitizers of the C tests: compiler flags, run-time libraries and environments."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["SANITIZERS", "VARIABLE", "Sanitizer", "chosen_flags", "sanitized_environment"]

# The environment variable with the sanitizer's name, for the tests and the processes that they start.
VARIABLE = "VDMRT_SANITIZER"


@dataclass(frozen=True)
class Sanitizer:
    """One way to instrument C.

    Attributes:
        flags: Flags of the compiler and the linker.
        library: Its run-time library, which the uninstrumented interpreter has to load first.
        symbols: Names that every library compiled with these flags refers to.
        options: Environment variables.
    """

    flags: tuple[str, ...]
    library: str
    symbols: tuple[bytes, ...]
    options: dict[str, str]


SANITIZERS = {
    "address": Sanitizer(
        flags=("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
        library="libasan.so",
        symbols=(b"__asan_init", b"__ubsan_handle"),
        options={
            # The interpreter and numpy leak on purpose at exit; the C main (test_runtime_core_c.py) checks for leaks.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        },
    ),
    "thread": Sanitizer(
        flags=("-fsanitize=thread",),
        library="libtsan.so",
        symbols=(b"__tsan_init",),
        options={"TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1:allocator_may_return_null=1"},
    ),
}


def chosen_flags() -> tuple[str, ...]:
    """Return the flags of the sanitizer that the tests run with; empty without one."""
    return SANITIZERS[os.environ[VARIABLE]].flags if VARIABLE in os.environ else ()


def sanitized_environment(name: str, package: Path | None = None) -> dict[str, str]:
    """Return the environment of a process that loads libraries compiled with ``SANITIZERS[name].flags``.

    Args:
        name: Key of `SANITIZERS`.
        package: Folder that holds a package `vdmrt` to be imported instead of the installed one.
    """
    chosen = SANITIZERS[name]
    asked = subprocess.run(["gcc", f"-print-file-name={chosen.library}"], capture_output=True, text=True, check=True)
    path = os.pathsep.join(str(folder) for folder in (package, Path(__file__).parent) if folder is not None)
    # Python's allocator would hide the bounds of objects.
    added = {VARIABLE: name, "LD_PRELOAD": asked.stdout.strip(), "PYTHONMALLOC": "malloc", "PYTHONPATH": path}
    return os.environ | chosen.options | added
