"""The C core from a C main, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
CSRC = ROOT / "runtime" / "csrc"
PLAIN_C = ("cuda", "cuda_driver", "cuda_graph", "device", "host", "normal", "replay", "ring")
HEADERS = ("cuda_driver", "cuda_queue", "device", "normal", "replay", "ring")
FLAGS = (
    "-std=c11",
    "-D_GNU_SOURCE",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wshadow",
    "-Werror",
    "-O1",
    "-g",
)


def test_c_core_passes_under_sanitizers(tmp_path: Path) -> None:
    program = tmp_path / "test_core"
    sources = [ROOT / "tests" / "csrc" / "test_core.c", *(CSRC / f"{name}.c" for name in PLAIN_C)]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(
        ["gcc", *FLAGS, *sanitizers, f"-I{CSRC}", *map(str, sources), "-o", str(program), "-lm", "-ldl", "-pthread"],
        check=True,
    )

    # An allocation that is far too large has to return NULL, as it does without the sanitizer.
    environment = os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=1:detect_leaks=1"}
    done = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr


def test_every_header_compiles_alone(tmp_path: Path) -> None:
    for name in HEADERS:
        source = tmp_path / f"{name}_alone.c"
        source.write_text(f'#include "{name}.h"\nint {name}_alone;\n')
        subprocess.run(["gcc", *FLAGS, f"-I{CSRC}", "-fsyntax-only", str(source)], check=True)


def test_only_files_that_say_so_know_python() -> None:
    direct = {path.name for path in CSRC.iterdir() if "Python.h" in path.read_text()}
    through_it = {path.name for path in CSRC.iterdir() if '#include "pycore.h"' in path.read_text()}

    assert direct == {"pycore.h"}
    assert all(name.startswith("py") or name == "coremodule.c" for name in through_it)


def test_plain_c_includes_only_headers_of_plain_c() -> None:
    for name in PLAIN_C:
        included = re.findall(r'#include "(.+)\.h"', (CSRC / f"{name}.c").read_text())

        assert included
        assert set(included) <= set(HEADERS), name


def test_plain_c_never_aborts_the_process() -> None:
    for name in PLAIN_C:
        text = (CSRC / f"{name}.c").read_text()

        assert not re.search(r"\b(abort|assert|exit)\s*\(", text), name
