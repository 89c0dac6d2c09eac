"""Snapshots: a session goes on elsewhere exactly as it would have gone on here, or is refused with a sentence."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fake_cuda import FakeCuda
from host_function_backend import HostFunctionBackend
from safetensors.numpy import load, save

import vdmrt
from vdmrt.bundle import FP32, open_bundle
from vdmrt.errors import SessionError
from vdmrt.runtime import Model

SETTINGS = {"seed": 3, "sampler": "ddpm", "steps": 3, "prefix_noise": 400}
SCRIPT = """
import sys, numpy, vdmrt
with vdmrt.load(sys.argv[1], device="cpu", precision="fp32", threads=1) as model, model.restore(sys.argv[2]) as session:
    numpy.save(sys.argv[3], numpy.concatenate([chunk.latents for chunk in session.stream(2)]))
"""


@pytest.fixture
def model(tiny_bundle: Path) -> Iterator[Model]:
    with vdmrt.load(tiny_bundle, device="cpu", precision="fp32", threads=1) as loaded:
        yield loaded


def given(count: int = 2) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count, 4, 4, 6)).astype(np.float32)


def taken(model: Model, path: Path, chunks: int = 3) -> tuple[Path, npt.NDArray[np.float32]]:
    """Save a snapshot after some chunks; return where, and the next two chunks."""
    with model.session(**SETTINGS) as session:  # type: ignore[arg-type]
        session.start(given())
        for _ in range(chunks):
            session.step()
        session.snapshot().save(path)
        return path, np.concatenate([chunk.latents for chunk in session.stream(2)])


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_restored_session_goes_on_bit_for_bit_in_another_process(model: Model, tmp_path: Path, chunks: int) -> None:
    path, wanted = taken(model, tmp_path / "sky.snapshot", chunks)
    out = tmp_path / "out.npy"

    subprocess.run([sys.executable, "-c", SCRIPT, str(model.bundle.path), str(path), str(out)], check=True)

    assert np.array_equal(np.load(out), wanted)
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []


def test_a_snapshot_moves_between_host_and_gpu(model: Model, tmp_path: Path, fake_cuda: FakeCuda) -> None:
    path, wanted = taken(model, tmp_path / "sky.snapshot")
    with Model(open_bundle(model.bundle.path), HostFunctionBackend(), FP32) as on_gpu:
        with on_gpu.restore(path, rollback_chunks=1) as session:
            back = session.snapshot()
            found = [session.step().latents, session.step().latents]
            session.rollback()
            found[1] = session.step().latents
    with model.restore(back) as session:
        again = np.concatenate([session.step().latents, session.step().latents])

    assert np.array_equal(np.concatenate(found), wanted) and np.array_equal(again, wanted)
    gc.collect()  # the session on the GPU, and its queue with it
    assert fake_cuda.violations() == [] and fake_cuda.live().allocations == 0


def test_two_sessions_go_two_ways_from_one_snapshot(model: Model) -> None:
    with model.session(**SETTINGS) as session:  # type: ignore[arg-type]
        session.start(given())
        session.step()
        snapshot = session.snapshot()
        here = session.step()
        with model.restore(snapshot) as same, model.restore(snapshot, seed=4) as other:
            assert np.array_equal(same.step().latents, here.latents)
            chunk = other.step()
            assert chunk.index == here.index and chunk.first_latent_frame == here.first_latent_frame
            assert other.seed == 4 and not np.array_equal(chunk.latents, here.latents)


def test_text_and_guidance_travel_along(text_bundle: Path, tmp_path: Path) -> None:
    text = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    with vdmrt.load(text_bundle, device="cpu", threads=1) as model:
        with model.session(seed=0, steps=3, text=text, guidance=3.0) as session:
            session.start(np.zeros((1, 4, 4, 4), np.float32))
            path = session.snapshot().save(tmp_path / "text.snapshot")
            wanted = session.step().latents
        with model.restore(path) as session:
            assert session.settings.guidance == 3.0
            assert np.array_equal(session.step().latents, wanted)


def test_slots_without_frames_are_zeroed(model: Model, tmp_path: Path) -> None:
    with model.session(**SETTINGS) as session:  # type: ignore[arg-type]
        session.start(given())
        snapshot = session.snapshot()
        snapshot.tensors["cache"][:, :, :, :, 2:] = 5
        with model.restore(snapshot) as restored:
            assert not restored.cache()[0][:, :, :, :, 2:].any()


def opened(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the metadata and the tensors of a snapshot."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"], load(data)


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """Change a snapshot and leave its checksum as it was."""
    metadata, tensors = opened(path)
    header = json.loads(metadata["vdmrt_snapshot"])
    change(header, tensors)
    path.write_bytes(save(tensors, metadata={**metadata, "vdmrt_snapshot": json.dumps(header)}))
    return path


def halve(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["cache"] = np.ascontiguousarray(tensors["cache"][:, :, :, :, :4])


def poison(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["cache"][0, 0, 0, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda h, t: h.update(graphs_sha256="0" * 64), "was taken from graphs 000000000000, and this model's are "),
        (lambda h, t: h.update(precision="fp16"), "at precision 'fp16', and this model runs 'fp32'; load .*precision="),
        (lambda h, t: h.update(sinks=2), "the cache pins 2 latent frames, and this model pins 0; load the bundle"),
        (lambda h, t: h.update(sinks="two"), "the header has 'two' for sinks"),
        (
            lambda h, t: h.update(schema=1),
            "a snapshot of schema 2, which has a checksum, found 1; take it again",
        ),
        (lambda h, t: h.update(written=-1), "the header has -1 for written"),
        (lambda h, t: h.update(written=True), "the header has True for written"),
        (lambda h, t: h.pop("chunks"), "the header has no value for chunks"),
        (lambda h, t: h["settings"].update(seed=2**64), "the header has 18446744073709551616 for settings.seed"),
        (lambda h, t: h["settings"].update(eta=float("inf")), "the header has inf for settings.eta"),
        (lambda h, t: h["settings"].update(extra=1), "the header has settings of another version"),
        (lambda h, t: h.update(settings=None), "the header has no value for settings.seed"),
        (halve, r"wanted 'cache' as float32 \[2, 2, 1, 12, 7, 16\], found float32 \[2, 2, 1, 12, 4, 16\]"),
        (lambda h, t: t.update(cache=t["cache"].astype(np.float64)), r"wanted 'cache' as float32 .*, found F64 "),
        (lambda h, t: t.pop("context"), r"wanted 'context' as float32 .*, found nothing"),
        (lambda h, t: t.update(more=np.zeros(2, np.float32)), r"wanted 'more' as nothing, found float32 \[2\]"),
        (lambda h, t: h["settings"].update(seed=4), "the recorded checksum is .*, that of the content is .*: the file"),
        (lambda h, t: h.update(written=4), "the recorded checksum is .*, that of the content is .*: the file"),
        (poison, "the recorded checksum is .*, that of the content is .*: the file"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused(
    model: Model, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], sentence: str
) -> None:
    path = rewritten(taken(model, tmp_path / "sky.snapshot")[0], change)

    with pytest.raises(SessionError, match=sentence):
        model.restore(path)

    with model.session(**SETTINGS) as session:  # type: ignore[arg-type]
        session.start(given())


def test_no_bit_can_be_turned_over(model: Model, tmp_path: Path) -> None:
    path, _ = taken(model, tmp_path / "sky.snapshot")
    data = path.read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    for place in [*range(0, head, 11), *range(head, len(data), 997), len(data) - 1]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with pytest.raises(SessionError):
            model.restore(path)

    path.write_bytes(data)
    model.restore(path).close()


def test_a_snapshot_without_its_checksum_is_refused(model: Model, tmp_path: Path) -> None:
    path, _ = taken(model, tmp_path / "sky.snapshot")
    metadata, tensors = opened(path)
    del metadata["vdmrt_sha256"]
    path.write_bytes(save(tensors, metadata=metadata))

    with pytest.raises(SessionError, match="the recorded checksum is none, that of the content is"):
        model.restore(path)


def test_a_snapshot_in_memory_that_holds_nan_is_refused(model: Model) -> None:
    with model.session(**SETTINGS) as session:  # type: ignore[arg-type]
        session.start(given())
        snapshot = session.snapshot()
    snapshot.tensors["cache"][0, 0, 0, 0, 0, 0] = np.nan

    with pytest.raises(SessionError, match="'cache' contains NaN or Inf"):
        model.restore(snapshot)


def test_what_is_no_snapshot_is_refused(model: Model, tmp_path: Path) -> None:
    path, _ = taken(model, tmp_path / "sky.snapshot")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SessionError, match="wanted a snapshot, found a truncated or other file"):
        model.restore(path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(SessionError, match="wanted a snapshot, found a truncated or other file"):
        model.restore(path)
    path.write_bytes(save({"cache": np.zeros(2, np.float32)}))
    with pytest.raises(SessionError, match="wanted a snapshot, found safetensors without its header"):
        model.restore(path)
    with pytest.raises(SessionError, match="the snapshot does not exist"):
        model.restore(tmp_path / "absent")
    with pytest.raises(SessionError, match="wanted a snapshot, found something that is not a regular file"):
        model.restore(tmp_path)
    with model.session(steps=2) as session, pytest.raises(SessionError, match="no frames to continue from"):
        session.snapshot()
    with pytest.raises(ValueError, match=r"seed must be 0 <= seed < 2\*\*64, got -1"):
        model.restore(path, seed=-1)
    with pytest.raises(TypeError, match=r"seed must be a whole number, got 1\.5"):
        model.restore(path, seed=1.5)  # type: ignore[arg-type]


def test_a_closed_model_restores_nothing(tiny_bundle: Path) -> None:
    model = vdmrt.load(tiny_bundle, device="cpu", threads=1)
    model.close()

    with pytest.raises(RuntimeError, match="the model is closed; load it again"):
        model.restore("anything")
