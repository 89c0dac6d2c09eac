"""Models, sessions and codecs that are closed while somebody uses them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from delayed import delayed_model

import vdmrt
from vdmrt.errors import SessionError
from vdmrt.runtime import Model, Session
from vdmrt.runtime.lane.lane import Lane
from vdmrt.runtime.session.generation import Generation
from vdmrt.runtime.session.session_pool import SessionPool

FRAME = np.zeros((1, 4, 4, 6), np.float32)


@pytest.fixture
def model(tiny_bundle: Path) -> Iterator[Model]:
    with vdmrt.load(tiny_bundle, device="cpu", precision="fp32", threads=1) as loaded:
        yield loaded


def started(model: Model) -> Session:
    session = model.session(seed=0, steps=2)
    session.start(FRAME)
    return session


def error_of(call: Callable[[], object]) -> str:
    """Return the sentence of the SessionError that a call ends in."""
    with pytest.raises(SessionError) as caught:
        call()
    return str(caught.value)


def at_once(calls: Sequence[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def in_a_thread(call: Callable[[], None]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def test_a_model_that_another_thread_uses_stays_open_with_all_of_its_sessions(model: Model) -> None:
    idle, busy = started(model), started(model)
    told: list[str] = []

    busy.step(on_step=lambda done: in_a_thread(lambda: told.append(error_of(model.close))))

    assert len(told) == 2
    assert told[0].startswith("the model stays open: the session is in use in another thread")
    for session in (idle, busy, started(model)):
        assert session.step().latents.shape == (3, 4, 4, 6)


@pytest.mark.parametrize("owner", ["model", "session"])
def test_closing_from_an_on_step_callback_names_the_callback_and_closes_nothing(model: Model, owner: str) -> None:
    session = started(model)
    told: list[str] = []

    session.step(on_step=lambda done: told.append(error_of((model if owner == "model" else session).close)))

    assert len(told) == 2 and "called from its own on_step callback or observer" in told[0]
    assert not session.closed and session.step().index == 1


def test_an_exception_in_the_callback_is_the_way_to_close_from_it(model: Model) -> None:
    def leave(done: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError), model, started(model) as session:
        session.step(on_step=leave)

    with pytest.raises(RuntimeError, match="the model is closed; load it again"):
        model.session()


def test_a_session_in_the_making_keeps_the_model_open(model: Model) -> None:
    """It waits for the lane that the callback's session holds; asking for the model's lock here must not."""
    busy, made, told = started(model), list[Session](), list[str]()
    maker = threading.Thread(target=lambda: made.append(model.session(steps=2)))

    def close_meanwhile(done: int) -> None:
        if done == 1:
            maker.start()
            while not model._pool._opening:
                threading.Event().wait(0.001)
            told.append(error_of(model.close))

    busy.step(on_step=close_meanwhile)
    maker.join()

    assert told == ["the model stays open: a session is being created in another thread; close it later"]
    made[0].start(FRAME)
    assert made[0].lane is busy.lane and made[0].step().index == 0


def test_sessions_of_a_closed_model_say_so(model: Model) -> None:
    session = started(model)

    model.close()
    model.close()

    assert session.closed
    with pytest.raises(RuntimeError, match="the session was closed with its model; load the model again"):
        session.step()
    with pytest.raises(RuntimeError, match="the model is closed; load it again"):
        model.program("fill")


def test_pictures_of_a_closed_model_say_so(model: Model) -> None:
    chunk = started(model).step()
    codec = model.codec
    assert codec is not None and chunk.pictures.shape == (3, 32, 48, 3)

    model.close()

    for use in (lambda: chunk.pictures, lambda: codec.encode(np.zeros((1, 32, 48, 3), np.uint8))):
        with pytest.raises(RuntimeError, match="the codec is closed, with the model .*; take pictures before"):
            use()


def test_closing_waits_for_a_chunk_that_is_being_decoded(tiny_bundle: Path) -> None:
    decoding, closed = threading.Event(), threading.Event()

    def wait(stage: str, run: int) -> float:
        if stage == "decode":
            decoding.set()
            assert not closed.wait(0.2), "the model was closed under a decode in flight"
        return 0.0

    model = delayed_model(tiny_bundle, wait)

    def close() -> None:
        decoding.wait()
        model.close()
        closed.set()

    chunk = started(model).step()
    closer = threading.Thread(target=close)
    closer.start()
    pictures = chunk.pictures
    closer.join()

    assert closed.is_set() and pictures.shape == (3, 32, 48, 3)


def test_sessions_closed_in_two_threads_at_once_leave_the_third_open() -> None:
    pool = SessionPool(lambda: cast(Lane, None))
    ones = [SimpleNamespace(generation=object()) for _ in range(400)]
    kept = ones[::8]
    pool.sessions.extend(cast(list[Session], ones))
    closed = [[one for one in ones[number::2] if one not in kept] for number in (0, 1)]

    def remove(part: list[SimpleNamespace]) -> None:
        for one in part:
            pool.remove(cast(Generation, one.generation))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        at_once([partial(remove, part) for part in closed])
    finally:
        sys.setswitchinterval(interval)

    assert cast(list[SimpleNamespace], pool.sessions) == kept
