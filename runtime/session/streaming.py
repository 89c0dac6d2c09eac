"""Streams of chunks, generated in the caller's thread or one chunk ahead in another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .chunk import Chunk

__all__ = ["stream_ahead", "stream_plainly"]

OnStep = Callable[[int], None]


class _Step(Protocol):
    """A function that generates one chunk, as :meth:`Session.step`."""

    def __call__(self, *, on_step: OnStep | None = None) -> Chunk: ...


class _Abandoned(Exception):
    """The consumer closed the stream while the next chunk was being generated."""


def stream_plainly(step: _Step, chunks: int | None, on_step: OnStep | None) -> Iterator[Chunk]:
    """Yield ``chunks`` chunks, or an endless stream for None."""
    made = 0
    while chunks is None or made < chunks:
        yield step(on_step=on_step)
        made += 1


def stream_ahead(step: _Step, chunks: int | None, on_step: OnStep | None) -> Iterator[Chunk]:
    """Yield chunks while a thread generates the next one; closing the iterator cancels it."""
    abandoned = threading.Event()

    def check(done: int) -> None:
        if abandoned.is_set():
            raise _Abandoned
        if on_step is not None:
            on_step(done)

    begun = 1
    with ThreadPoolExecutor(1, thread_name_prefix="vdmrt-stream") as maker:
        pending: Future[Chunk] | None = maker.submit(step, on_step=check)
        try:
            while pending is not None:
                chunk = pending.result()
                pending = None
                if chunks is None or begun < chunks:
                    pending = maker.submit(step, on_step=check)
                    begun += 1
                yield chunk
        finally:
            abandoned.set()
