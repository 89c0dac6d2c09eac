"""What a session tells its observer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vdmrt.runtime import Chunk, advance, load


class Listener:
    """Observer that records its calls."""

    def __init__(self, *, fail_at: str | None = None) -> None:
        self.heard: list[str] = []
        self.chunks: list[Chunk] = []
        self._fail_at = fail_at

    def begin(self, stage: str) -> None:
        self.heard.append(f"+{stage}")
        if stage == self._fail_at:
            raise RuntimeError(f"no {stage} today")

    def step(self, done: int) -> None:
        self.heard.append(str(done))

    def end(self, stage: str) -> None:
        self.heard.append(f"-{stage}")

    def finish(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)


MADE = ["+noise", "-noise", "+denoise", "1", "2", "-denoise", "+fill", "-fill", "+scatter", "-scatter"]


def test_an_observer_records_every_stage_in_order(tiny_bundle: Path) -> None:
    listener = Listener()
    with load(tiny_bundle) as model, model.session(seed=1, sampler="ddim", steps=2) as session:
        session.observer = listener
        session.start(np.full((1, 32, 48, 3), 9, np.uint8))
        assert listener.heard == ["+encode", "-encode", "+fill", "-fill", "+scatter", "-scatter"]
        listener.heard.clear()

        chunk = session.step()
        _ = chunk.pictures

    assert listener.heard == [*MADE, "+decode", "-decode"]
    assert listener.chunks == [chunk]


def test_sessions_that_step_together_tell_each_observer(tiny_bundle: Path) -> None:
    listeners = Listener(), Listener()
    with load(tiny_bundle) as model:
        sessions = [model.session(seed=seed, sampler="ddim", steps=2) for seed in (1, 2)]
        for session, listener in zip(sessions, listeners, strict=True):
            session.start(np.zeros((1, *model.manifest.geometry.latent_shape)))
            session.observer = listener

        chunks = advance(sessions)

    assert [listener.heard for listener in listeners] == [MADE, MADE]
    assert [listener.chunks for listener in listeners] == [[chunk] for chunk in chunks]


def test_a_callers_on_step_is_still_called_beside_an_observer(tiny_bundle: Path) -> None:
    done: list[int] = []
    with load(tiny_bundle) as model, model.session(seed=1, sampler="ddim", steps=2) as session:
        session.start(np.zeros((1, *model.manifest.geometry.latent_shape)))
        session.observer = Listener()

        session.step(on_step=done.append)

    assert done == [1, 2]


def test_what_an_observer_raises_reaches_the_caller_and_the_stage_ends(tiny_bundle: Path) -> None:
    listener = Listener(fail_at="denoise")
    with load(tiny_bundle) as model, model.session(seed=1, sampler="ddim", steps=2) as session:
        session.start(np.zeros((1, *model.manifest.geometry.latent_shape)))
        session.observer = listener

        with pytest.raises(RuntimeError, match="no denoise today"):
            session.step()
        session.observer = None

        assert session.step().index == 0
