"""SIGTERM and SIGHUP act as Ctrl-C in every command, and the next run removes the parts of a killed one."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from vdmrt.bundle import is_part
from vdmrt.cli import main
from vdmrt.media.pictures import read_latents

VDMRT = str(Path(sys.executable).with_name("vdmrt"))
CONFIG = {"input_size": [8, 4, 4], "hidden_size": 16, "depth": 1, "num_heads": 2, "max_tpe_len": 8}
ENDLESS = "1000000"


@pytest.fixture
def place(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Yield a folder with a bundle, latents to continue from, and a configuration to export."""
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    np.save(tmp_path / "first.npy", np.zeros((2, 4, 4, 6), np.float32))
    np.save(tmp_path / "clips.npy", np.random.default_rng(0).standard_normal((2, 9, 4, 4, 6), np.float32))
    (tmp_path / "small.json").write_text(json.dumps(CONFIG))
    return tmp_path


def run_command(chunks: str = ENDLESS) -> list[str]:
    return ["run", "bundle", "--latents", "first.npy", "--chunks", chunks, "--output", "out.npy", "--threads", "1"]


def export_command() -> list[str]:
    sizes = ["--chunk-frames", "2", "--slots", "4", "--max-steps", "8", "--latent-size", "4x6"]
    return ["export", "--config", "small.json", "--random-init", "5", *sizes, "--output", "exported"]


def start(place: Path, command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [VDMRT, *command], cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return a process's output; kill it if it does not end, so that a failing test ends."""
    killer = threading.Timer(120, process.kill)
    killer.start()
    try:
        return process.communicate()
    finally:
        killer.cancel()


def wait_for_line(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"the command ended without saying '{words}'")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in a minute"
        time.sleep(0.02)


def parts_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if is_part(path)]


def wait_for_part(folder: Path, nbytes: int = 0) -> None:
    """Wait until a command has written a part of a given length."""
    wait_until(lambda: any(path.lstat().st_size >= nbytes for path in parts_in(folder)))


def digest(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_run_keeps_the_finished_chunks(place: Path, number: signal.Signals, status: int) -> None:
    process = start(place, [*run_command(), "--json"])
    wait_for_part(place, 10_000)
    process.send_signal(number)
    stdout, stderr = finish(process)
    summary = json.loads(stdout)

    assert process.returncode == status, stderr
    assert summary["interrupted"] == number.name
    assert summary["latent_frames"] == len(read_latents(place / "out.npy")) > 20
    assert "Traceback" not in stderr
    assert parts_in(place) == []


COMMANDS = {
    "export": (export_command(), "tracing denoise"),
    "build": (["build", "bundle", "--backend", "onnxruntime"], "optimized by ONNX Runtime"),
    "calibrate": (["calibrate", "bundle", "--data", "clips.npy", "--samples", "4000"], "calibration set"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminated_command_leaves_nothing_half_written(place: Path, name: str) -> None:
    command, words = COMMANDS[name]
    before = digest(place)
    process = start(place, command)
    wait_for_line(process, words)
    process.send_signal(signal.SIGTERM)
    _, stderr = finish(process)

    assert process.returncode == 143, stderr
    assert stderr.endswith("Interrupted by SIGTERM.\n")
    assert "Traceback" not in stderr
    assert {name: data for name, data in digest(place).items() if "observation-" not in name} == before
    assert parts_in(place) == []


@pytest.mark.parametrize(
    "command",
    [
        ["verify", "bundle", "--chunks", ENDLESS, "--report", "page.html"],
        ["profile", "bundle", "--chunks", ENDLESS, "--no-roofline", "--json", "report.json"],
    ],
    ids=["verify", "profile"],
)
def test_a_terminated_measurement_writes_nothing(place: Path, command: list[str]) -> None:
    before = digest(place)
    process = start(place, command)
    wait_until(lambda: "onnxruntime" in Path(f"/proc/{process.pid}/maps").read_text())
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, stderr = finish(process)

    assert process.returncode == 143, stderr
    assert stderr.endswith("Interrupted by SIGTERM.\n")
    assert "Traceback" not in stderr
    assert digest(place) == before


def test_further_signals_do_no_harm(place: Path) -> None:
    process = start(place, run_command())
    wait_for_part(place, 10_000)
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    _, stderr = finish(process)

    # While it is ending, the interpreter leaves the signal to the system; a shell reports 130 for both.
    assert process.returncode in (130, -signal.SIGINT), stderr
    assert "Traceback" not in stderr
    assert not (place / "out.npy").exists() or len(read_latents(place / "out.npy")) > 0


def test_the_next_run_removes_the_parts_of_a_killed_one(place: Path) -> None:
    process = start(place, run_command())
    wait_for_part(place, 10_000)
    process.kill()
    finish(process)
    left = parts_in(place)
    done = subprocess.run([VDMRT, *run_command("1")], cwd=place, capture_output=True, text=True, timeout=120)

    assert len(left) == 1
    assert done.returncode == 0, done.stderr
    assert parts_in(place) == []


def test_the_next_export_removes_the_parts_of_a_killed_one(place: Path) -> None:
    process = start(place, export_command())
    wait_for_line(process, "tracing denoise")
    process.kill()
    finish(process)
    is_folder = [path.is_dir() for path in parts_in(place)]
    command = ["export", "nowhere.pth", "--config", f"{place}/small.json", "--slots", "4", "--chunk-frames", "2"]
    result = CliRunner().invoke(main, [*command, "--latent-size", "4x6", "--output", f"{place}/exported"])

    assert is_folder == [True]
    assert "nowhere.pth: no such checkpoint" in result.stderr
    assert parts_in(place) == []


def test_parts_of_a_killed_run_are_not_read_as_data(place: Path) -> None:
    (place / "data").mkdir()
    shutil.copy(place / "clips.npy", place / "data")
    (place / "data" / ".clip.mp4.0123abcd.part").write_bytes(b"half")
    (place / "data" / ".DS_Store").write_bytes(b"hidden")
    options = ["--samples", "1", "--steps", "2", "--threads", "1", "--accept-slower"]
    result = CliRunner().invoke(main, ["calibrate", f"{place}/bundle", "--data", f"{place}/data", *options])

    assert result.exit_code == 0, result.output
    assert "of 2 clips, 18 latent frames, from 1 file," in result.stdout
