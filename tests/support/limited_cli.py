"""The command line in a process that obeys file permissions, also as root, and that has a limit of the file size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["run_limited"]

_SCRIPT = """
import ctypes, resource, sys
# Without CAP_DAC_OVERRIDE root must obey the permissions of its own files.
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc = ctypes.CDLL(None)
assert libc.capget(header, data) == 0
data[0] &= ~2
data[1] &= ~2
assert libc.capset(header, data) == 0
nbytes = int(sys.argv.pop(1))
if nbytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))
from vdmrt.cli import main
main()
"""


def run_limited(*arguments: str | Path, file_nbytes: int = 0) -> subprocess.CompletedProcess[str]:
    """Run ``vdmrt`` with the arguments; no file grows beyond ``file_nbytes``, 0 for no limit."""
    command = [sys.executable, "-c", _SCRIPT, str(file_nbytes), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)
