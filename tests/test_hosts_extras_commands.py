"""Every command without its optional packages: one sentence with the extra that contains them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from calibrated import tiny_latents

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

blocked = sys.argv.pop(1)
sys.meta_path.insert(0, Blocker())
"""
COMMAND = "from vdmrt.cli import main; main()"
LOWER = """
from vdmrt.bundle import Precision, open_bundle
from vdmrt.engines import lower_graphs
from vdmrt.errors import EngineError
try:
    lower_graphs(open_bundle(sys.argv[1]), Precision.parse("fp32"))
except EngineError as error:
    sys.exit(f"Error: {error}")
"""


def run_without(package: str, *arguments: str, code: str = COMMAND) -> subprocess.CompletedProcess[str]:
    """Run vdmrt in an interpreter without a package."""
    command = [sys.executable, "-c", BLOCKED + code, package, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def told(task: str, package: str, extra: str) -> str:
    return f"Error: {task} needs {package}, which is not installed; install it with pip install 'vdmrt[{extra}]'\n"


@pytest.mark.parametrize(
    ("package", "line", "task", "extra"),
    [
        ("torch", "export --config CausalSTDiT2-S/2 --random-init 0 --output OUT", "vdmrt export", "export"),
        ("onnx", "calibrate BUNDLE --data DATA", "vdmrt calibrate", "calibrate"),
        ("onnxruntime", "calibrate BUNDLE --data DATA", "vdmrt calibrate", "calibrate"),
        ("onnx", "calibrate BUNDLE --precision fp16 --keep blocks.0.*", "vdmrt calibrate", "calibrate"),
        ("onnx", "verify BUNDLE --precision fp16", "vdmrt verify", "calibrate"),
        ("onnx", "build BUNDLE --backend onnxruntime", "building engines of ONNX Runtime", "calibrate"),
        ("onnx_ir", "build BUNDLE --backend onnxruntime", "building engines of ONNX Runtime", "calibrate"),
        ("onnxruntime", "build BUNDLE --backend onnxruntime", "building engines of ONNX Runtime", "calibrate"),
        ("onnxruntime", "run BUNDLE --latents DATA --output OUT.npy", "running a bundle with ONNX Runtime", "cpu"),
        ("onnxruntime", "profile BUNDLE", "running a bundle with ONNX Runtime", "cpu"),
        ("nvtx", "profile BUNDLE --chunks 1 --nvtx", "vdmrt profile --nvtx", "profile"),
    ],
)
def test_a_missing_package_is_reported_in_one_sentence(
    tiny_bundle: Path, tmp_path: Path, package: str, line: str, task: str, extra: str
) -> None:
    names = {"BUNDLE": tiny_bundle, "DATA": tiny_latents(tmp_path), "OUT": tmp_path / "out"}
    for name, path in names.items():
        line = line.replace(name, str(path))

    done = run_without(package, "--quiet", *line.split())

    assert done.returncode == 1
    assert done.stderr == told(task, package, extra)


def test_lowering_without_onnx_raises_one_sentence(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")

    done = run_without("onnx", str(bundle), code=LOWER)

    assert (done.returncode, done.stderr) == (1, told("writing a graph for TensorRT", "onnx", "tensorrt"))
