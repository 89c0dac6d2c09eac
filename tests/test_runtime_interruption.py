"""Ctrl-C while a session is taken or made: nothing stays taken."""

from __future__ import annotations

import inspect
from pathlib import Path

from interruption import interrupt

import vdmrt
from vdmrt.runtime.device.exclusive import Exclusive
from vdmrt.runtime.lane.leases import Leases
from vdmrt.runtime.session.model import Model
from vdmrt.runtime.session.session_pool import SessionPool

HELD = inspect.unwrap(Exclusive.held).__code__
MAKING = {
    function.__code__
    for function in (Model._open_session, inspect.unwrap(SessionPool.leased), SessionPool._lease, Leases.lease)
}


def use(exclusive: Exclusive) -> None:
    with exclusive.held():
        pass


def test_an_interrupted_use_leaves_a_session_free() -> None:
    places = 1
    exclusive = Exclusive()
    while interrupt({HELD}, places, lambda: use(exclusive)):
        use(exclusive)
        places += 1

    assert places > 3


def test_an_interrupted_making_of_a_session_leaves_the_model_usable(tiny_bundle: Path) -> None:
    places = 1
    with vdmrt.load(tiny_bundle, device="cpu", threads=1) as model:
        model.session(steps=2).close()
        while interrupt(MAKING, places, lambda: model.session(steps=2)):
            for session in list(model._pool.sessions):
                session.close()
            assert not model._pool._opening
            assert all(lane.leases.all_free for lane in model._pool._lanes)
            places += 1

    assert places > 5
