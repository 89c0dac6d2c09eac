"""What sessions and models refuse, and what they say."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vdmrt
from vdmrt.errors import BundleError, SessionError, TensorMismatchError
from vdmrt.runtime import Model, Noise, advance

FRAME = np.zeros((1, 4, 4, 6), np.float32)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Model]:
    with vdmrt.load(tiny_bundle) as loaded:
        yield loaded


def test_wrong_shape_of_latents(model: Model) -> None:
    with model.session(steps=2) as session:
        with pytest.raises(
            TensorMismatchError, match=r"'latents': wanted \[n, c, h, w\] = \[any, 4, 4, 6\], found \[4, "
        ):
            session.start(np.zeros((4, 1, 4, 6), np.float32))


def test_wrong_dtype_of_latents(model: Model) -> None:
    with model.session(steps=2) as session:
        with pytest.raises(TensorMismatchError, match="'latents': wanted floating point, found int64"):
            session.start(np.zeros((1, 4, 4, 6), np.int64))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_latents_that_are_not_finite(model: Model, bad: float) -> None:
    frame = FRAME.copy()
    frame[0, 2, 1, 3] = bad
    with model.session(steps=2) as session:
        with pytest.raises(TensorMismatchError, match=r"contains NaN or Inf at \[0, 2, 1, 3\]"):
            session.start(frame)


def test_wrong_size_of_pictures(model: Model) -> None:
    with model.session(steps=2) as session:
        sentence = r"wanted uint8 \[n, 32, 48, 3\], found uint8 \[1, 8, 8, 3\]; cut .* vdmrt.media.fit_pictures"
        with pytest.raises(TensorMismatchError, match=sentence):
            session.start(np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("count", [0, 8])
def test_more_prefix_frames_than_slots_or_none(model: Model, count: int) -> None:
    with model.session(steps=2) as session:
        with pytest.raises(SessionError, match=f"the cache holds 1 to 7 given latent frames, got {count}"):
            session.start(np.zeros((count, 4, 4, 6), np.float32))


def test_stepping_before_starting(model: Model) -> None:
    with model.session(steps=2) as session:
        with pytest.raises(SessionError, match=r"no frames to continue from; call start\(first_frames\) first"):
            session.step()


def test_a_closed_session(model: Model) -> None:
    session = model.session(steps=2)
    session.close()

    with pytest.raises(RuntimeError, match="the session was closed; create another"):
        session.start(FRAME)


def test_a_closed_model(tiny_bundle: Path) -> None:
    model = vdmrt.load(tiny_bundle)
    model.close()

    with pytest.raises(RuntimeError, match="the model is closed; load it again"):
        model.session()


def test_a_closed_lane(tiny_bundle: Path) -> None:
    model = vdmrt.load(tiny_bundle, device="cpu", threads=1)
    session = model.session(steps=2)
    lane = session.lane
    with pytest.raises(SessionError, match="a lane with leased requests cannot be closed; close its sessions first"):
        lane.close()
    model.close()
    lane.close()

    for use in (
        lane.leases.lease,
        lambda: lane.denoising.run(1),
        lambda: lane.denoising.latent(0),
        lambda: lane.conditioning.set_guidance(0, 1.0),
    ):
        with pytest.raises(RuntimeError, match="the lane is closed, with the model .*; load the model again"):
            use()


def test_a_closed_model_lets_go_of_its_graphs_though_a_lane_is_still_known(tiny_bundle: Path) -> None:
    """On a GPU they would else be destroyed after the stream that they run on."""
    model = vdmrt.load(tiny_bundle, device="cpu", threads=1)
    lane = model.session(steps=2).lane
    graphs = [weakref.ref(model.program(stage)._session) for stage in ("fill", "denoise")]  # type: ignore[attr-defined]
    assert all(graph() is not None for graph in graphs)

    model.close()

    assert all(graph() is None for graph in graphs) and lane is not None


def test_two_threads_in_one_session(model: Model) -> None:
    failures: list[BaseException] = []
    with model.session(seed=0, steps=2) as session:
        session.start(FRAME)

        def intrude(done: int) -> None:
            thread = threading.Thread(target=try_to_step)
            thread.start()
            thread.join()

        def try_to_step() -> None:
            try:
                session.step()
            except SessionError as error:
                failures.append(error)

        session.step(on_step=intrude)

    assert len(failures) == 2 and "in use in another thread" in str(failures[0])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"steps": 7}, "exported for at most 6 steps, got 7; export again with --max-steps 7"),
        ({"steps": 0}, "at least 1 and at most 1000 denoising steps, got 0"),
        ({"steps": -2}, "at least 1 and at most 1000 denoising steps, got -2"),
        ({"steps": 1, "sampler": "iddpm"}, "'iddpm' needs at least 2 and at most 1000 denoising steps, got 1"),
        ({"sampler": "flow-euler"}, "needs a model that predicts flow, this one predicts v"),
        ({"sampler": "euler"}, "Sampler must be one of iddpm, .*, got 'euler'"),
        ({"seed": -1}, r"seed must be 0 <= seed < 2\*\*64, got -1"),
        ({"seed": 2**64}, r"seed must be 0 <= seed < 2\*\*64, got 18446744073709551616"),
        ({"guidance": 7.0}, "has no null rows, so guidance must be 1, got 7.0"),
        ({"text": np.zeros((2, 8), np.float32)}, "the model has no text"),
        ({"steps": 4, "prefix_noise": 50}, "the smallest timestep that works is 250"),
    ],
)
def test_arguments_of_a_session_out_of_range(model: Model, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        model.session(**arguments)


@pytest.mark.parametrize("value", [1.5, True, "2"])
@pytest.mark.parametrize("name", ["seed", "steps", "prefix_noise", "rollback_chunks"])
def test_arguments_of_a_session_that_are_no_whole_numbers(model: Model, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a whole number, got {value!r}"):
        model.session(**{name: value})


def test_whole_numbers_may_be_those_of_numpy(model: Model) -> None:
    with model.session(seed=np.uint64(7), steps=np.int32(2)) as session:  # type: ignore[arg-type]
        assert (type(session.seed), type(session.settings.steps)) == (int, int)


@pytest.mark.parametrize("value", [1.5, True])
def test_chunks_that_are_no_whole_number(model: Model, value: Any) -> None:
    with model.session(steps=2, rollback_chunks=1) as session:
        session.start(FRAME)
        for use in (session.rollback, lambda chunks: next(session.stream(chunks))):
            with pytest.raises(TypeError, match=f"chunks must be a whole number, got {value}"):
                use(value)


def test_zero_chunks(model: Model) -> None:
    with model.session(steps=2) as session:
        with pytest.raises(ValueError, match="chunks must be at least 1, got 0"):
            next(session.stream(0))


def test_given_noise_of_another_shape(model: Model) -> None:
    with model.session(steps=2, sampler="ddpm") as session:
        session.start(FRAME)
        with pytest.raises(
            TensorMismatchError, match=r"'noise.steps': wanted \[steps, T, c, h, w\] = \[2, 3, 4, 4, 6\]"
        ):
            session.step(noise=Noise(steps=np.zeros((3, 3, 4, 4, 6), np.float32)))
        with pytest.raises(TensorMismatchError, match=r"'noise.initial': wanted \[T, c, h, w\]"):
            session.step(noise=Noise(initial=np.zeros((4, 4, 6), np.float32)))


def test_a_session_twice_in_one_step(model: Model) -> None:
    with model.session(steps=2) as session:
        session.start(FRAME)
        with pytest.raises(ValueError, match="one or more different sessions"):
            advance([session, session])


def test_absolute_positions_at_their_end(text_bundle: Path) -> None:
    text = np.zeros((2, 8), np.float32)
    with vdmrt.load(text_bundle) as model, model.session(seed=0, steps=2, text=text) as session:
        session.start(np.zeros((2, 4, 4, 4), np.float32))
        for _ in range(3):
            session.step()
        with pytest.raises(SessionError, match="end at 9 latent frames, 8 are cached and 2 more were requested"):
            session.step()


def test_text_that_is_missing_or_does_not_fit(text_bundle: Path) -> None:
    with vdmrt.load(text_bundle) as model:
        with pytest.raises(ValueError, match=r"wants text embeddings \[tokens <= 5, 8\], got none"):
            model.session()
        with pytest.raises(TensorMismatchError, match=r"'text': wanted \[tokens, width\] = \[any, 8\]"):
            model.session(text=np.zeros((2, 9), np.float32))
        with pytest.raises(ValueError, match="takes 1 to 5 tokens, got 6"):
            model.session(text=np.zeros((6, 8), np.float32))
        with pytest.raises(ValueError, match="takes 1 to 5 tokens, got 2, of which 0 count"):
            model.session(text=np.zeros((2, 8), np.float32), text_mask=[0, 0])
        with pytest.raises(ValueError, match="guidance must be finite, got nan"):
            model.session(text=np.zeros((2, 8), np.float32), guidance=float("nan"))


def test_a_sampler_with_noise_on_a_deterministic_bundle(text_bundle: Path) -> None:
    with vdmrt.load(text_bundle) as model:
        with pytest.raises(ValueError, match="'ddpm' takes noise; choose ddim or dpm-solver"):
            model.session(sampler="ddpm", text=np.zeros((1, 8), np.float32))


def test_an_unknown_backend_and_a_precision_that_is_not_there(text_bundle: Path) -> None:
    with pytest.raises(ValueError, match="must be auto or one of tensorrt, tensorrt-rtx, onnxruntime, got 'tensor'"):
        vdmrt.load(text_bundle, backend="tensor")
    with pytest.raises(BundleError, match="has fp32, not 'fp16'; export again with --precision fp16"):
        vdmrt.load(text_bundle, precision="fp16")
    with pytest.raises(ValueError, match=r"threads must be 1 <= threads <= \d+, .*, got 0"):
        vdmrt.load(text_bundle, threads=0)
