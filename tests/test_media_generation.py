"""A generation from latents to a file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from vdmrt.errors import SessionError
from vdmrt.media.generation import Request, generate


def test_progress_counts_denoising_steps_and_names_the_chunk(tiny_bundle: Path, tmp_path: Path) -> None:
    frames, seen = np.zeros((4, 4, 4, 6), np.float32), list[tuple[int, int, str]]()
    request = Request(tiny_bundle, tmp_path / "out.npy", frames=frames, chunks=2, steps=2, sampler="ddim", threads=1)

    generate(request, on_progress=lambda *progress: seen.append(progress))

    assert seen == [(1, 4, "chunk 1 of 2"), (2, 4, "chunk 1 of 2"), (3, 4, "chunk 2 of 2"), (4, 4, "chunk 2 of 2")]


def test_damaged_results_do_not_stop_a_run(tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (bundle / "measured.json").write_text("{")
    frames = np.zeros((4, 4, 4, 6), np.float32)

    generate(Request(bundle, tmp_path / "out.npy", frames=frames, chunks=1, steps=2, threads=1))

    assert (tmp_path / "out.npy").exists()
    assert "the measured accuracy and speed are not known" in caplog.text
    assert "measured.json: is not valid JSON or is truncated" in caplog.text


def test_a_failure_during_a_rollout_keeps_the_previous_chunks(tiny_bundle: Path, tmp_path: Path) -> None:
    frames, output = np.zeros((4, 4, 4, 6), np.float32), tmp_path / "out.npy"

    def fail_in_third_chunk(done: int, total: int, place: str) -> None:
        if place == "chunk 3 of 4":
            raise SessionError("the device is gone")

    with pytest.raises(SessionError, match=r"the device is gone; '.*out\.npy' keeps the 2 chunks before it"):
        generate(
            Request(tiny_bundle, output, frames=frames, chunks=4, steps=2, threads=1), on_progress=fail_in_third_chunk
        )

    assert np.load(output).shape == (4 + 2 * 3, 4, 4, 6)
