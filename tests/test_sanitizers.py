"""Sanitizers report the faults they are used for, and their tests refuse a core that is not instrumented."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sanitizers import SANITIZERS, VARIABLE, sanitized_environment

ROOT = Path(__file__).parent.parent
LOAD = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).run(1)"
USE_AFTER_FREE = """
#include <stdlib.h>
int run(int one) { volatile int *value = malloc(4); *value = one; free((void *)value); return *value; }
"""
OVERFLOW = """
#include <limits.h>
int run(int one) { volatile int most = INT_MAX; return most + one; }
"""
RACE = """
#include <pthread.h>
static int shared;
static void *count(void *unused) { shared++; return unused; }
int run(int one)
{
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) { pthread_create(&threads[i], NULL, count, NULL); }
    for (int i = 0; i < 2; i++) { pthread_join(threads[i], NULL); }
    return shared + one;
}
"""


@pytest.mark.parametrize(
    ("name", "source", "report"),
    [
        ("address", USE_AFTER_FREE, "AddressSanitizer: heap-use-after-free"),
        ("address", OVERFLOW, "runtime error: signed integer overflow"),
        ("thread", RACE, "ThreadSanitizer: data race"),
    ],
    ids=["use-after-free", "overflow", "race"],
)
def test_a_fault_in_a_loaded_library_ends_the_interpreter(tmp_path: Path, name: str, source: str, report: str) -> None:
    library = tmp_path / "faulty.so"
    command = ["gcc", "-g", "-fPIC", "-shared", *SANITIZERS[name].flags, "-x", "c", "-", "-o", str(library), "-pthread"]
    subprocess.run(command, input=source, text=True, check=True)

    loading = [sys.executable, "-c", LOAD, str(library)]
    done = subprocess.run(loading, env=sanitized_environment(name), capture_output=True, text=True)

    assert done.returncode != 0
    assert report in done.stderr


def test_an_uninstrumented_core_is_refused(tmp_path: Path) -> None:
    environment = os.environ | {VARIABLE: "address", "PYTHONPATH": str(ROOT / "tests" / "support")}
    pytest_script = Path(sys.executable).with_name("pytest")
    command = [str(pytest_script), "--noconftest", "-p", "sanitized_tests", str(ROOT / "tests" / "test_fake_cuda.py")]

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "_core.abi3.so was not compiled for the sanitizer: it lacks __asan_init" in done.stderr
