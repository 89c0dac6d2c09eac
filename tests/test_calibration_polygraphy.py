"""Polygraphy's commands for a bundle run with the inputs that were written for them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_cuda import enabled_fake_cuda
from tensorrt_engines import write_engine
from tensorrt_recorder import install

from vdmrt.bundle import open_bundle
from vdmrt.cli import main

RUN = "import sys; from polygraphy.tools import main; sys.argv[0] = 'polygraphy'; sys.exit(main())"


@pytest.fixture(scope="module")
def lines(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Return the commands for a bundle that has a TensorRT engine."""
    folder = tmp_path_factory.mktemp("polygraphy")
    bundle = open_bundle(shutil.copytree(tiny_bundle, folder / "bundle"))
    with enabled_fake_cuda(), install("10.3", gpu="vdmrt fake GPU") as recorder:
        write_engine(bundle, recorder, trusted=False)
    done = CliRunner().invoke(main, ["inspect", str(bundle.path), "--polygraphy", str(folder / "new" / "inputs")])
    assert done.exit_code == 0, done.output
    yield done.stdout.splitlines()


def test_commands_compare_graph_and_plan_and_narrow_a_difference_down(lines: list[str]) -> None:
    told = [shlex.split(line)[:3] for line in lines]

    assert [words[1] for words in told] == ["inspect", "run", "run", "inspect", "run", "debug"] * 2
    assert sum("denoise.plan --model-type engine --trt --load-inputs" in line for line in lines) == 1
    assert all("denoise.fp16.inputs.json" in line for line in lines if "run" in line and "denoise" in line)


def test_commands_that_need_no_gpu_run(lines: list[str]) -> None:
    own = [line for line in lines if "denoise.fp16.onnx" in line]

    shown = polygraphy(own[0])
    assert "ONNX Model" in shown and "slot_valid" in shown
    assert "PASSED" in polygraphy(own[1])
    outputs = Path(shlex.split(own[1])[-1])
    assert outputs.stat().st_size > 0
    again = polygraphy(own[2].replace("--trt --strongly-typed", "--onnxrt"))
    assert "PASSED" in again and "Difference is within tolerance" in again


def polygraphy(line: str) -> str:
    """Run a command of Polygraphy; return its output."""
    words = shlex.split(line)
    assert words[0] == "polygraphy"
    done = subprocess.run([sys.executable, "-c", RUN, *words[1:]], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_folder_that_cannot_be_made_is_one_sentence(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    done = CliRunner().invoke(main, ["inspect", str(tiny_bundle), "--polygraphy", str(tmp_path / "file" / "inputs")])

    assert done.exit_code == 1
    assert "file/inputs: cannot be created: Not a directory" in done.stderr
