"""Sessions: what they promise beyond the recorded rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import vdmrt
from vdmrt.runtime import Model, Noise, Session, advance

Latents = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Iterator[Model]:
    with vdmrt.load(tiny_bundle) as loaded:
        yield loaded


def given(count: int = 1, seed: int = 0) -> Latents:
    return np.random.default_rng(seed).standard_normal((count, 4, 4, 6)).astype(np.float32)


def rollout(session: Session, chunks: int, first: Latents | None = None) -> Latents:
    session.start(given() if first is None else first)
    return np.concatenate([chunk.latents for chunk in session.stream(chunks)])


@pytest.mark.parametrize("sampler", ["iddpm", "ddpm", "ddim", "dpm-solver++"])
def test_the_same_seed_gives_the_same_latents(model: Model, sampler: str) -> None:
    runs = []
    for _ in range(2):
        with model.session(seed=5, sampler=sampler, steps=3) as session:
            runs.append(rollout(session, 4))

    assert np.array_equal(runs[0], runs[1])
    with model.session(seed=6, sampler=sampler, steps=3) as session:
        assert not np.array_equal(rollout(session, 4), runs[0])


def test_a_random_seed_is_reported_and_reproduces(model: Model) -> None:
    with model.session(sampler="ddpm", steps=2) as session:
        seed, first = session.seed, rollout(session, 2)

    with model.session(seed=seed, sampler="ddpm", steps=2) as session:
        assert np.array_equal(rollout(session, 2), first)


def test_chunks_count_the_given_frames(model: Model) -> None:
    with model.session(seed=0, steps=2) as session:
        session.start(given(4))
        chunks = list(session.stream(3))

    assert [chunk.first_latent_frame for chunk in chunks] == [4, 7, 10]
    assert [chunk.index for chunk in chunks] == [0, 1, 2]
    assert all(chunk.latents.shape == (3, 4, 4, 6) and chunk.latents.dtype == np.float32 for chunk in chunks)
    assert len(chunks[0].timings.denoise_ms) == 2 and chunks[0].timings.total_ms > 0


def test_cache_holds_the_last_frames_each_in_its_slot(model: Model) -> None:
    with model.session(seed=0, steps=2) as session:
        session.start(given(2))
        for chunk in range(5):
            session.step()
            written = 2 + 3 * (chunk + 1)
            wanted = {frame % 7: frame for frame in range(max(0, written - 7), written)}
            assert session.cache()[1] == [wanted.get(slot, -1) for slot in range(7)]


def test_empty_slots_hold_zeros(model: Model) -> None:
    with model.session(seed=0, steps=2) as session:
        session.start(given(7))
        session.start(given(2))
        cache, frames = session.cache()

    assert frames == [0, 1, -1, -1, -1, -1, -1]
    assert np.abs(cache[:, :, :, :, :2]).max() > 0 and not cache[:, :, :, :, 2:].any()


def test_two_rows_in_different_states_equal_two_single_runs(model: Model) -> None:
    settings = [{"sampler": "ddpm", "steps": 4}, {"sampler": "dpm-solver++", "steps": 2}]
    alone = []
    for seed, kind in enumerate(settings):
        with model.session(seed=seed, **kind) as session:  # type: ignore[arg-type]
            alone.append(rollout(session, 3, given(seed + 1, seed)))

    with (
        model.session(seed=0, **settings[0]) as first,  # type: ignore[arg-type]
        model.session(seed=1, **settings[1]) as second,  # type: ignore[arg-type]
    ):
        assert first.lane is second.lane
        first.start(given(1, 0))
        second.start(given(2, 1))
        together = [advance([first, second]) for _ in range(3)]

    for row in range(2):
        found = np.concatenate([made[row].latents for made in together])
        np.testing.assert_allclose(found, alone[row], rtol=0, atol=1e-5)


def test_nan_in_one_row_leaves_the_other_bit_identical(model: Model) -> None:
    with model.session(seed=0, steps=2) as clean:
        wanted = rollout(clean, 1)
    with model.session(seed=0, steps=2) as clean, model.session(seed=1, steps=2) as poisoned:
        clean.start(given())
        poisoned.start(given())
        poisoned.lane.cache.view(1)[...] = np.nan
        with pytest.raises(vdmrt.VdmrtError, match="chunk 0 contains NaN or Inf"):
            advance([clean, poisoned])
        assert clean.next_latent_frame == 1
        clean.start(given())
        assert np.array_equal(clean.step().latents, wanted)


def test_a_third_session_gets_a_lane_of_its_own(model: Model) -> None:
    with model.session(steps=2) as a, model.session(steps=2) as b, model.session(steps=2) as c:
        assert a.lane is b.lane and c.lane is not a.lane
        with pytest.raises(ValueError, match="must share a lane"):
            advance([a, c])


def test_starting_again_forgets_the_earlier_generation(model: Model) -> None:
    with model.session(seed=3, steps=2) as session:
        first = rollout(session, 3)
        assert np.array_equal(rollout(session, 3), first)


def test_given_random_numbers_replace_drawn_ones(model: Model) -> None:
    noise = Noise(initial=given(3, 8), steps=np.stack([given(3, 9), given(3, 10)]))
    runs = []
    for seed in (1, 2):
        with model.session(seed=seed, sampler="ddpm", steps=2) as session:
            session.start(given())
            runs.append(session.step(noise=noise).latents)

    assert np.array_equal(runs[0], runs[1])


def test_noise_depends_on_the_frame_and_not_on_the_chunking(tiny_bundle: Path, model: Model) -> None:
    """A frame starts from the same noise whichever chunk it falls into."""
    drawn = {}
    for count in (1, 2):
        with model.session(seed=4, sampler="ddim", steps=1) as session:
            session.start(given(count))
            session.generation.begin(Noise())
            drawn[count] = session.lane.denoising.latent(session.request)

    assert np.array_equal(drawn[1][1:], drawn[2][:-1])


def test_prefix_noise_changes_the_cache_and_not_the_given_frames(model: Model) -> None:
    with model.session(seed=1, steps=6, prefix_noise=400) as noisy, model.session(seed=1, steps=6) as clean:
        noisy.start(given(3))
        clean.start(given(3))
        assert not np.array_equal(noisy.cache()[0], clean.cache()[0])


def test_extending_with_what_was_made_equals_going_on(model: Model) -> None:
    with model.session(seed=2, steps=2) as session:
        session.start(given())
        made = [session.step().latents, session.step().latents]
    with model.session(seed=2, steps=2) as session:
        session.start(given())
        session.extend(made[0])
        assert np.array_equal(session.step().latents, made[1])


def test_cancelling_a_chunk_leaves_the_session_where_it_was(model: Model) -> None:
    def cancel(done: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with model.session(seed=2, sampler="ddpm", steps=3) as session:
        session.start(given())
        with pytest.raises(KeyboardInterrupt):
            session.step(on_step=cancel)
        after_cancel = session.step().latents
        session.start(given())
        assert np.array_equal(session.step().latents, after_cancel)


def test_prefixes_of_any_length_up_to_the_capacity(model: Model) -> None:
    for count in range(1, 8):
        with model.session(seed=0, steps=2) as session:
            session.start(given(count))
            assert session.next_latent_frame == count
            assert session.step().first_latent_frame == count


def test_pictures_go_in_and_come_out(model: Model) -> None:
    pictures = np.full((2, 32, 48, 3), 90, np.uint8)

    with model.session(seed=0, steps=2) as session:
        session.start(pictures)
        out = session.step().pictures

    assert out.shape == (3, 32, 48, 3) and out.dtype == np.uint8


def test_text_is_padded_and_masked(text_bundle: Path) -> None:
    text = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    longer = np.concatenate([text, 100 * np.ones((2, 8), np.float32)])
    with vdmrt.load(text_bundle) as model:
        runs = []
        for embeddings, mask in ((text, None), (longer, [1, 1, 1, 0, 0])):
            with model.session(seed=0, steps=3, text=embeddings, text_mask=mask, guidance=3.0) as session:
                session.start(np.zeros((1, 4, 4, 4), np.float32))
                runs.append(session.step().latents)
        with model.session(seed=0, steps=3, text=2 * text, guidance=3.0) as session:
            session.start(np.zeros((1, 4, 4, 4), np.float32))
            other = session.step().latents

    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], other)


def test_fp16_follows_fp32(tiny_bundle: Path, model: Model) -> None:
    with model.session(seed=1, steps=3) as session:
        wanted = rollout(session, 3)
    with vdmrt.load(tiny_bundle, precision="fp16") as half, half.session(seed=1, steps=3) as session:
        assert session.cache()[0].dtype == np.float16
        found = rollout(session, 3)

    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 1e-2


def test_cache_is_exactly_as_large_as_it_must_be(model: Model) -> None:
    with model.session(steps=2) as session:
        assert session.lane.cache_nbytes == 4 * model.manifest.geometry.cache_elements


def test_all_memory_returns_when_the_model_is_closed(tiny_bundle: Path) -> None:
    model = vdmrt.load(tiny_bundle)
    session = model.session(steps=2)
    session.start(given())
    device = session.lane.device
    assert device.allocated_nbytes > session.lane.cache_nbytes

    model.close()
    model.close()

    assert device.allocated_nbytes == 0 and session.closed
