"""Resources that are closed together, the youngest first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

__all__ = ["Closable", "Owned"]


class Closable(Protocol):
    """What has to be closed."""

    def close(self) -> None:
        """Give back what it holds. Closing twice is allowed."""
        ...


T = TypeVar("T", bound=Closable)


class Owned:
    """What an object made and has to close."""

    __slots__ = ("_things",)

    def __init__(self) -> None:
        self._things: list[Closable] = []

    def add(self, thing: T) -> T:
        """Own ``thing`` from now on; return it."""
        self._things.append(thing)
        return thing

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Close everything if the block fails, whatever fails while closing."""
        try:
            yield
        except BaseException:
            with suppress(Exception):
                self.close()
            raise

    def close(self) -> None:
        """Close everything, the youngest first, whatever fails; raise the first failure at the end."""
        first: Exception | None = None
        while self._things:
            try:
                self._things.pop().close()
            except Exception as error:
                first = first or error
        if first is not None:
            raise first
