"""A generation from latents to a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vdmrt.runtime.generation import Request, generate


def test_progress_counts_denoising_steps_and_names_the_chunk(tiny_bundle: Path, tmp_path: Path) -> None:
    frames, seen = np.zeros((4, 4, 4, 6), np.float32), list[tuple[int, int, str]]()
    request = Request(tiny_bundle, tmp_path / "out.npy", frames=frames, chunks=2, steps=2, sampler="ddim", threads=1)

    generate(request, on_progress=lambda *progress: seen.append(progress))

    assert seen == [(1, 4, "chunk 1 of 2"), (2, 4, "chunk 1 of 2"), (3, 4, "chunk 2 of 2"), (4, 4, "chunk 2 of 2")]
