"""Chunks that are taken back, sessions that begin anew, and what both leave behind: nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fake_cuda import FakeCuda, enabled_fake_cuda
from host_function_backend import HostFunctionBackend
from prometheus_client import CollectorRegistry

import vdmrt
from vdmrt.bundle import FP32, open_bundle
from vdmrt.errors import DeviceError, SessionError
from vdmrt.profiler.analysis.metrics import Metrics
from vdmrt.runtime import Model

Latents = npt.NDArray[np.float32]
SETTINGS = {"seed": 3, "sampler": "ddpm", "steps": 3}


@pytest.fixture(params=["host", "cuda"])
def model(request: pytest.FixtureRequest, tiny_bundle: Path, fake_cuda: FakeCuda) -> Iterator[Model]:
    """The tiny bundle on the host, and on the fake GPU: 7 slots, chunks of 3, so that chunk 2 wraps."""
    on_host = request.param == "host"
    loaded = (
        vdmrt.load(tiny_bundle, device="cpu", precision="fp32", threads=1)
        if on_host
        else Model(open_bundle(tiny_bundle), HostFunctionBackend(), FP32)
    )
    with loaded:
        yield loaded
    gc.collect()  # with its devices: a context is released by number, and the next machine has one of that number
    assert fake_cuda.violations() == [] and fake_cuda.live().allocations == 0


def given(count: int = 2, seed: int = 0) -> Latents:
    return np.random.default_rng(seed).standard_normal((count, 4, 4, 6)).astype(np.float32)


def rollout(model: Model, chunks: int) -> list[Latents]:
    with model.session(**SETTINGS) as session:  # type: ignore[arg-type]
        session.start(given())
        return [chunk.latents for chunk in session.stream(chunks)]


@pytest.mark.parametrize(("made", "back"), [(1, 1), (2, 2), (3, 1), (5, 3)])
def test_chunks_generated_again_after_a_rollback_are_bit_identical(model: Model, made: int, back: int) -> None:
    """Empty slots, a ring that wraps, and the cross-frame context come back as they were."""
    wanted = rollout(model, made + 2)
    with model.session(**SETTINGS, rollback_chunks=3) as session:  # type: ignore[arg-type]
        session.start(given())
        states = [session.cache()]
        for _ in range(made):
            session.step()
            states.append(session.cache())

        session.rollback(back)
        cache, frames = session.cache()

        assert np.array_equal(cache, states[made - back][0]) and frames == states[made - back][1]
        again = [session.step() for _ in range(back + 2)]
        assert [chunk.index for chunk in again] == list(range(made - back, made + 2))
        assert all(
            np.array_equal(chunk.latents, want) for chunk, want in zip(again, wanted[made - back :], strict=True)
        )


def test_a_rollback_leaves_the_other_requests_of_the_lane_alone(model: Model) -> None:
    wanted = rollout(model, 3)
    with model.session(**SETTINGS) as other, model.session(seed=9, steps=2, rollback_chunks=1) as session:  # type: ignore[arg-type]
        assert session.lane is other.lane
        other.start(given())
        session.start(given(seed=1))
        found = [other.step().latents]
        session.step()
        found.append(other.step().latents)
        session.rollback()
        found.append(other.step().latents)

    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_frames_that_were_given_can_be_taken_back_and_replaced(model: Model) -> None:
    with model.session(**SETTINGS, rollback_chunks=2) as session:  # type: ignore[arg-type]
        session.start(given())
        session.extend(given(3, seed=4))
        before = session.step().latents
        session.rollback(2)
        session.extend(given(3, seed=5))
        assert not np.array_equal(session.step().latents, before)
        session.rollback(2)
        session.extend(given(3, seed=4))
        assert np.array_equal(session.step().latents, before)


def test_the_log_is_allocated_with_the_session_and_counted(model: Model, fake_cuda: FakeCuda) -> None:
    g = model.manifest.geometry
    model.session(**SETTINGS).close()  # type: ignore[arg-type]  # makes the lane
    before = model.allocated_nbytes
    with model.session(**SETTINGS, rollback_chunks=2) as session:  # type: ignore[arg-type]
        slots = 2 * g.layers * g.rows_per_request * g.tokens_per_frame * g.heads * g.chunk_frames * g.head_size
        context = 2 * g.layers * g.rows_per_request * g.tokens_per_frame * g.heads * g.context_frames * g.head_size
        assert session.undo_nbytes == 2 * 4 * (slots + context)
        held = model.allocated_nbytes
        assert held >= before + session.undo_nbytes
        session.start(given())
        fake_cuda.clear_calls()
        for _ in range(4):
            session.step()
            session.rollback()
            session.step()

        assert model.allocated_nbytes == held and "cuMemAlloc_v2" not in fake_cuda.counts()
    assert model.allocated_nbytes == before


def test_metrics_count_the_log_as_cache(model: Model) -> None:
    registry = CollectorRegistry()
    metrics = Metrics("tiny", registry=registry)
    with model.session(**SETTINGS, rollback_chunks=2) as session:  # type: ignore[arg-type]
        metrics.watch(session)
        found = registry.get_sample_value("vdmrt_kv_cache_bytes", {"model": "tiny"})
        assert found == session.lane.cache_nbytes + session.undo_nbytes
    session.observer = None


def test_rolling_back_further_than_the_log_is_refused_and_changes_nothing(model: Model) -> None:
    wanted = rollout(model, 3)
    with model.session(**SETTINGS, rollback_chunks=1) as session:  # type: ignore[arg-type]
        session.start(given())
        with pytest.raises(SessionError, match=r"roll back 1 chunk, and the log of rollback_chunks=1 holds 0; start"):
            session.rollback()
        made = [session.step().latents, session.step().latents]
        with pytest.raises(SessionError, match=r"roll back 2 chunks, and .* holds 1; create .* with rollback_chunks=2"):
            session.rollback(2)
        with pytest.raises(ValueError, match="chunks must be at least 1, got 0"):
            session.rollback(0)
        made.append(session.step().latents)

    assert all(np.array_equal(a, b) for a, b in zip(made, wanted, strict=True))
    with pytest.raises(ValueError, match="rollback_chunks must be at least 0, got -1"):
        model.session(rollback_chunks=-1)
    with model.session(**SETTINGS) as session:  # type: ignore[arg-type]
        session.start(given())
        session.step()
        with pytest.raises(SessionError, match="the log of rollback_chunks=0 holds 0"):
            session.rollback()


def test_a_reset_session_is_as_new(model: Model) -> None:
    wanted = rollout(model, 2)
    with model.session(**SETTINGS, rollback_chunks=1) as session:  # type: ignore[arg-type]
        session.start(given(7, seed=8))
        session.step()
        session.reset()
        cache, frames = session.cache()
        assert not cache.any() and frames == [-1] * 7
        with pytest.raises(SessionError, match=r"no frames to continue from; call start"):
            session.step()

        session.start(given())
        assert all(np.array_equal(session.step().latents, want) for want in wanted)


@pytest.mark.parametrize("model", ["cuda"], indirect=True)
def test_a_copy_that_fails_in_a_rollback_closes_the_session(model: Model, fake_cuda: FakeCuda) -> None:
    session = model.session(**SETTINGS, rollback_chunks=1)  # type: ignore[arg-type]
    session.start(given())
    session.step()
    fake_cuda.fail(719, name="cuMemcpy3DAsync_v2")

    with pytest.raises(DeviceError, match="cuMemcpy3DAsync_v2: CUDA_ERROR_LAUNCH_FAILED"):
        session.rollback()
    with pytest.raises(RuntimeError, match="a rollback was interrupted and the session was closed"):
        session.step()


@pytest.mark.parametrize("depth", [10**12, 10**30])
def test_a_log_that_cannot_fit_is_refused_before_it_is_allocated(model: Model, fake_cuda: FakeCuda, depth: int) -> None:
    model.session(**SETTINGS).close()  # type: ignore[arg-type]  # makes the lane
    fake_cuda.clear_calls()

    sentence = rf"log of rollback_chunks={depth} needs [\d.]+ \wiB of memory, and \w+(:0)? has [\d.]+ \wiB available; "
    with pytest.raises(DeviceError, match=sentence + r"at most rollback_chunks=\d+ fits"):
        model.session(**SETTINGS, rollback_chunks=depth)  # type: ignore[arg-type]

    assert "cuMemAlloc_v2" not in fake_cuda.counts()
    with model.session(**SETTINGS, rollback_chunks=1) as session:  # type: ignore[arg-type]
        session.start(given())


def test_as_many_chunks_as_the_refusal_names_fit(tiny_bundle: Path) -> None:
    with enabled_fake_cuda(memory_nbytes=1 << 20):
        model = Model(open_bundle(tiny_bundle), HostFunctionBackend(), FP32)
        model.session(**SETTINGS).close()  # type: ignore[arg-type]  # makes the lane
        session = model.session(**SETTINGS, rollback_chunks=most_chunks(model))  # type: ignore[arg-type]
        assert session.undo_nbytes > 2**19
        with pytest.raises(DeviceError, match="at most rollback_chunks=0 fits"):
            model.session(**SETTINGS, rollback_chunks=1)  # type: ignore[arg-type]
        model.close()
        del model, session
        gc.collect()


def most_chunks(model: Model) -> int:
    """Return the number that a refusal names as the most that fits."""
    try:
        model.session(**SETTINGS, rollback_chunks=10**12)  # type: ignore[arg-type]
    except DeviceError as error:
        return int(str(error).rpartition("rollback_chunks=")[2].split()[0])
    raise AssertionError("a log of a million million chunks was not refused")


@pytest.mark.parametrize("model", ["cuda"], indirect=True)
def test_a_log_that_does_not_fit_leaves_the_model_usable(model: Model, fake_cuda: FakeCuda) -> None:
    model.session(**SETTINGS).close()  # type: ignore[arg-type]
    before = model.allocated_nbytes
    fake_cuda.fail(2, nth=4, name="cuMemAlloc_v2")

    with pytest.raises(DeviceError, match=r"wanted \d+ bytes, GPU 0 has \d+ of 1073741824 bytes free"):
        model.session(**SETTINGS, rollback_chunks=9)  # type: ignore[arg-type]

    assert model.allocated_nbytes == before
    with model.session(**SETTINGS) as session:  # type: ignore[arg-type]
        session.start(given())
        session.step()
