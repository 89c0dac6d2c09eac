"""Standard streams that are closed or full: no traceback, and a status that shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

VDMRT = Path(sys.executable).with_name("vdmrt")
FULL = "Error: standard output cannot be written: No space left on device\n"
COMMANDS = {
    "help": "--help",
    "version": "--version",
    "help of a command": "run --help",
    "echo": "inspect {bundle} --json",
    "rich": "inspect {bundle}",
}


def shell(line: str, folder: Path, **given: object) -> subprocess.CompletedProcess[str]:
    """Run a bash command that ends with the status of the first command of its last pipe."""
    command = ["bash", "-c", f"{line.format(vdmrt=VDMRT, **given)}; exit ${{PIPESTATUS[0]}}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_full_output_is_one_sentence(tiny_bundle: Path, tmp_path: Path, command: str) -> None:
    done = shell(f"{{vdmrt}} {command} > /dev/full", tmp_path, bundle=tiny_bundle)

    assert (done.returncode, done.stderr) == (1, FULL)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_broken_pipe_ends_the_command_silently(tiny_bundle: Path, tmp_path: Path, command: str) -> None:
    done = shell(f"{{vdmrt}} {command} | true", tmp_path, bundle=tiny_bundle)

    assert (done.returncode, done.stderr) == (141, "")


def test_closed_streams_behave_like_dev_null(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = f"{tiny_bundle} <&- >&- 2>&-"

    assert shell(f"{{vdmrt}} inspect {bundle}", tmp_path).returncode == 0
    assert shell("{vdmrt} inspect nowhere <&- >&- 2>&-", tmp_path).returncode == 1


@pytest.mark.parametrize("target", ["/dev/full", "&-"])
def test_messages_that_cannot_be_printed_do_not_stop_the_work(tiny_bundle: Path, tmp_path: Path, target: str) -> None:
    options = "--chunks 3 --warmup 0 --steps 1 --sampler ddim --no-roofline --decoding off --json report.json"
    done = shell(f"{{vdmrt}} profile {{bundle}} {options} 2>{target}", tmp_path, bundle=tiny_bundle)

    assert done.returncode == 0
    assert "=== Performance summary ===" in done.stdout
    assert (tmp_path / "report.json").exists()


def test_files_are_written_even_if_stdout_fails(tiny_bundle: Path, tmp_path: Path) -> None:
    options = "--chunks 3 --warmup 0 --steps 1 --sampler ddim --no-roofline --decoding off --json report.json"
    done = shell(f"{{vdmrt}} --quiet profile {{bundle}} {options} | true", tmp_path, bundle=tiny_bundle)

    assert (done.returncode, done.stderr) == (141, "")
    assert (tmp_path / "report.json").exists()
