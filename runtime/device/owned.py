"""Ownership of resources that are closed together, in reverse order of creation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TypeVar

__all__ = ["Closable", "Owned"]


class Closable(Protocol):
    """A resource with a ``close`` method."""

    def close(self) -> None:
        """Release the resource. Closing twice is allowed."""
        ...


T = TypeVar("T", bound=Closable)


class Owned:
    """The resources that an object has to close."""

    __slots__ = ("_things",)

    def __init__(self) -> None:
        self._things: list[Closable] = []

    def add(self, thing: T) -> T:
        """Take ownership of ``thing`` and return it."""
        self._things.append(thing)
        return thing

    @contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """Close everything if the block fails; ignore failures to close."""
        try:
            yield
        except BaseException:
            with suppress(Exception):
                self.close()
            raise

    def close(self) -> None:
        """Close everything, newest first, despite failures; raise the first failure at the end."""
        first: Exception | None = None
        while self._things:
            try:
                self._things.pop().close()
            except Exception as error:
                first = first or error
        if first is not None:
            raise first
