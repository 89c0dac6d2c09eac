"""How the C core loads the CUDA driver, each time in a process that has loaded none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# CUDA 10.2, without the functions that came later.
OLD_DRIVER = """
int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDriverGetVersion(int *version) { *version = 10020; return 0; }
"""
SCRIPT = """
from vdmrt.errors import DeviceError
from vdmrt.runtime._core import cuda_device
for _ in range(2):
    try:
        cuda_device()
    except DeviceError as error:
        print(error)
"""


def test_a_driver_that_lacks_a_function_is_too_old_and_says_its_version(tmp_path: Path) -> None:
    library = tmp_path / "libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{library.name}", "-o", str(library)]
    subprocess.run(command, input=OLD_DRIVER, text=True, check=True)

    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wanted a driver for CUDA 11.4 or newer, found one for CUDA 10.2") == 2
