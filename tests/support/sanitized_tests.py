"""Run the C core's tests with an instrumented core and fake driver: ``sanitized_tests.py address thread``.

The core is built in a temporary folder; runtime/_core.abi3.so is neither used nor replaced. As a pytest plugin, this
module rejects libraries that are not instrumented.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from sanitizers import SANITIZERS, VARIABLE, sanitized_environment

ROOT = Path(__file__).parents[2]
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-DPy_LIMITED_API=0x030A0000", "-O1", "-g", "-fPIC", "-shared")
# The tests that need no model and therefore no torch.
PATTERNS = ("test_runtime_core_*.py", "test_runtime_cuda_core.py", "test_fake_cuda.py")
OWN_SANITIZERS = ROOT / "tests" / "test_runtime_core_c.py"
# Sanitizers delay the release of freed memory, which this test would count.
DESELECTED = "tests/test_runtime_core_device_lifetime.py::test_thousands_of_allocations_leave_nothing_behind"
# Without conftest.py, which imports torch; reports go to the real standard error.
OPTIONS = "--noconftest --capture=sys -p no:cacheprovider -p fake_cuda -p sanitized_tests --deselect".split()


def build_package(folder: Path, flags: Sequence[str]) -> None:
    """Create a package `vdmrt` in a folder: links to the sources, and an instrumented core."""
    runtime = folder / "vdmrt" / "runtime"
    runtime.mkdir(parents=True)
    for source in ROOT.iterdir():
        if not source.name.startswith(".") and source.name != "runtime":
            (folder / "vdmrt" / source.name).symlink_to(source)
    for source in (ROOT / "runtime").iterdir():
        if source.suffix != ".so":
            (runtime / source.name).symlink_to(source)
    sources = [str(path) for path in (ROOT / "runtime" / "csrc").glob("*.c")]
    command = ["gcc", *FLAGS, *flags, f"-I{sysconfig.get_path('include')}", *sources]
    subprocess.run([*command, "-o", str(runtime / "_core.abi3.so"), "-lm", "-ldl", "-pthread"], check=True)


def run_tests(name: str) -> int:
    """Run the tests of one sanitizer; return pytest's exit status, or that of the sanitizer."""
    with tempfile.TemporaryDirectory(prefix=f"vdmrt-{name}-") as folder:
        build_package(Path(folder), SANITIZERS[name].flags)
        files = {path for pattern in PATTERNS for path in (ROOT / "tests").glob(pattern)} - {OWN_SANITIZERS}
        pytest_script = Path(sys.executable).with_name("pytest")
        command = [str(pytest_script), *OPTIONS, DESELECTED, *map(str, sorted(files))]
        return subprocess.run(command, cwd=ROOT, env=sanitized_environment(name, Path(folder))).returncode


def pytest_configure() -> None:
    """Check that core and fake driver were compiled for the sanitizer."""
    from fake_cuda import build_library

    from vdmrt.runtime import _core

    for library in (Path(_core.__file__), build_library()):
        content = library.read_bytes()
        for symbol in SANITIZERS[os.environ[VARIABLE]].symbols:
            if symbol not in content:
                raise pytest.UsageError(f"{library} was not compiled for the sanitizer: it lacks {symbol.decode()}")


def main(names: Sequence[str]) -> int:
    """Run the tests of each sanitizer; return 1 if one failed."""
    # A background process starts with SIGINT ignored, which the tests that send it would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    failed = []
    for name in names:
        begun = time.monotonic()
        status = run_tests(name)
        print(f"{' '.join(SANITIZERS[name].flags)}: exit status {status} after {time.monotonic() - begun:.0f} s")
        failed += [name] if status != 0 else []
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(SANITIZERS)))
