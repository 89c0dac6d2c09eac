"""A chunk that is made in slices: the same chunk, and sessions that others can join, leave and cancel."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fake_cuda import FakeCuda
from host_function_backend import HostFunctionBackend

import vdmrt
from vdmrt.bundle import FP32, open_bundle
from vdmrt.errors import SessionError, TensorMismatchError
from vdmrt.runtime import Model, Session
from vdmrt.runtime.sampling.noise import Noise
from vdmrt.runtime.session.advance import Advance

Array = npt.NDArray[np.float32]
STEPS = 6


@pytest.fixture
def model(tiny_bundle: Path) -> Iterator[Model]:
    with vdmrt.load(tiny_bundle, device="cpu", precision="fp32", threads=1) as loaded:
        yield loaded


@pytest.fixture(params=["host", "cuda"])
def any_model(request: pytest.FixtureRequest, tiny_bundle: Path, fake_cuda: FakeCuda) -> Iterator[Model]:
    loaded = (
        vdmrt.load(tiny_bundle, device="cpu", precision="fp32", threads=1)
        if request.param == "host"
        else Model(open_bundle(tiny_bundle), HostFunctionBackend(), FP32)
    )
    with loaded:
        yield loaded
    gc.collect()  # with its devices: a context is released by number, and the next machine has one of that number
    assert fake_cuda.violations() == [] and fake_cuda.live().allocations == 0


def started(model: Model, seed: int = 1, steps: int = STEPS) -> Session:
    session = model.session(seed=seed, sampler="ddpm", steps=steps)
    frame = np.random.default_rng(seed).standard_normal((1, *model.manifest.geometry.latent_shape))
    session.start(frame.astype(np.float32))
    return session


def alone(model: Model, seed: int = 1, steps: int = STEPS, chunks: int = 1) -> list[Array]:
    """Return what a session makes of which each chunk is made at once."""
    with started(model, seed, steps) as session:
        return [chunk.latents for chunk in session.stream(chunks)]


def in_slices(sessions: list[Session], steps: int) -> list[Array]:
    with Advance(sessions) as chunk:
        chunk.begin()
        while not chunk.run(steps):
            pass
        return [one.latents for one in chunk.finish()]


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_chunk_made_in_slices_is_the_one_made_at_once(any_model: Model, steps: int) -> None:
    wanted = alone(any_model, chunks=3)
    with started(any_model) as session:
        found = [in_slices([session], steps)[0] for _ in wanted]

    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_chunk_in_slices_has_the_times_of_all_of_its_steps(model: Model) -> None:
    with started(model) as session, Advance([session]) as chunk:
        chunk.begin()
        while not chunk.run(4):
            pass
        (made,) = chunk.finish()

    assert len(made.timings.denoise_ms) == len(made.timings.enqueue_us) == STEPS


def test_a_chunk_that_is_cancelled_leaves_its_session_as_it_was(any_model: Model) -> None:
    wanted = alone(any_model, chunks=2)
    with started(any_model) as session:
        session.step()
        before, frames = session.cache()
        with Advance([session]) as chunk:
            chunk.begin()
            assert not chunk.run(3)

        assert np.array_equal(session.cache()[0], before) and session.cache()[1] == frames
        assert np.array_equal(session.step().latents, wanted[1])


def test_rows_join_and_leave_at_any_step(any_model: Model) -> None:
    """One has run 2 of 6 steps when another with 3 begins; that one leaves first."""
    wanted = alone(any_model, 1, 6)[0], alone(any_model, 2, 3)[0]
    with started(any_model, 1, 6) as early, started(any_model, 2, 3) as late:
        assert early.lane is late.lane
        with Advance([early]) as one, Advance([late]) as two:
            one.begin()
            one.run(2)
            two.begin()
            two.run(2)
            assert (one.remaining, two.remaining) == (2, 1)
            assert not one.run(1) and two.run(1)
            (made,) = two.finish()
            one.run()
            found = one.finish()[0].latents, made.latents

    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_another_session_may_step_between_two_slices(model: Model) -> None:
    wanted = alone(model, 1)[0], alone(model, 2, 3)[0]
    with started(model, 1) as sliced, started(model, 2, 3) as other, Advance([sliced]) as chunk:
        chunk.begin()
        chunk.run(2)
        between = other.step().latents
        assert chunk.remaining == 1
        chunk.run()

        assert np.array_equal(chunk.finish()[0].latents, wanted[0])
    assert np.array_equal(between, wanted[1])


def test_a_slice_that_a_callback_ended_can_be_continued(any_model: Model) -> None:
    def stop(done: int) -> None:
        if done == 3:
            raise KeyError("enough")

    told: list[int] = []
    wanted = alone(any_model)[0]
    with started(any_model) as session, Advance([session]) as chunk:
        chunk.begin()
        chunk.run(1)
        with pytest.raises(KeyError, match="enough"):
            chunk.run(on_step=stop)
        chunk.run(on_step=told.append)

        assert np.array_equal(chunk.finish()[0].latents, wanted)
    assert told[-1] == STEPS


def test_a_session_that_an_advance_has_cannot_be_used_or_closed(model: Model) -> None:
    session = started(model)
    with Advance([session]) as chunk:
        chunk.begin()
        chunk.run(1)
        for use in (session.step, session.close, session.reset, model.close):
            with pytest.raises(SessionError, match=r"while an Advance has it; .* cancel .* Advance.close\(\)"):
                use()
        chunk.run()
        chunk.finish()
        session.reset()
    session.close()


def test_closing_waits_for_the_slice_of_another_thread(model: Model) -> None:
    with started(model) as session:
        chunk = Advance([session])
        chunk.begin()
        closer = threading.Thread(target=chunk.close)
        chunk.run(2, on_step=lambda done: closer.start() if done == 1 else None)
        closer.join()

        with pytest.raises(RuntimeError, match="the chunk was finished or closed"):
            chunk.run()
        assert session.step().index == 0


@pytest.mark.parametrize("name", ["run", "finish", "close"])
def test_a_callback_cannot_use_the_advance_that_calls_it(model: Model, name: str) -> None:
    with started(model) as session, Advance([session]) as chunk:
        chunk.begin()
        use: Callable[[], None] = getattr(chunk, name)
        with pytest.raises(RuntimeError, match="the chunk is being generated"):
            chunk.run(on_step=lambda done: use())


@pytest.mark.parametrize("begun", [True, False])
def test_a_callback_cannot_denoise_another_session_of_the_lane(any_model: Model, begun: bool) -> None:
    wanted = alone(any_model, 1)[0], alone(any_model, 2)[0]
    with started(any_model, 1) as session, started(any_model, 2) as other:
        with Advance([session]) as chunk, Advance([other]) as second:
            chunk.begin()
            if begun:
                second.begin()

            def use(done: int) -> None:
                second.run() if begun else second.begin()

            with pytest.raises(SessionError, match="the lane is denoising: this was called from an on_step callback"):
                chunk.run(1, on_step=use)
            chunk.run()
            found = chunk.finish()[0].latents
        latents = found, other.step().latents

    assert all(np.array_equal(a, b) for a, b in zip(latents, wanted, strict=True))


def test_bad_prefix_noise_of_one_session_fills_no_cache(model: Model) -> None:
    with model.session(prefix_noise=400, steps=6) as first, model.session(prefix_noise=400, steps=6) as second:
        for session in (first, second):
            session.start(np.zeros((1, *model.manifest.geometry.latent_shape), np.float32))
        before = first.cache()[1]
        with Advance([first, second], [None, Noise(prefix=np.zeros((1, 2), np.float32))]) as chunk:
            chunk.begin()
            chunk.run()
            with pytest.raises(TensorMismatchError, match=r"noise.prefix.*\[1, 2\]"):
                chunk.finish()

        assert first.cache()[1] == before
        assert first.step().index == 0


def test_calls_in_another_order_are_refused(model: Model) -> None:
    with started(model) as session:
        chunk = Advance([session])
        with pytest.raises(RuntimeError, match=r"call begin\(\) first"):
            chunk.run()
        chunk.begin()
        with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
            chunk.run(0)
        chunk.run(2)
        with pytest.raises(RuntimeError, match="denoising steps remain: 4; call run"):
            chunk.finish()
        chunk.run()
        chunk.finish()
        with pytest.raises(RuntimeError, match="an Advance generates one chunk of each session"):
            chunk.begin()


def test_a_beginning_that_fails_releases_all_sessions(model: Model) -> None:
    with started(model) as session, model.session(steps=2) as fresh:
        with pytest.raises(SessionError, match=r"no frames to continue from; call start\(first_frames\) first"):
            Advance([session, fresh]).begin()

        assert session.step().index == 0


def test_an_advance_that_is_forgotten_releases_its_sessions(model: Model) -> None:
    with started(model) as session:
        Advance([session]).begin()

        assert session.step().index == 0
