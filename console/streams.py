"""Standard streams that may be closed, or full, before a command has written everything."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO, cast

__all__ = ["guarded_streams"]

# Exit status of cat, grep and git when the reader of their pipe is gone.
_BROKEN_PIPE = 128 + signal.SIGPIPE
_STDERR = 2  # the last of the standard descriptors


class _OutputLost(Exception):
    """Standard output cannot be written. Not an OSError, because click and rich handle those themselves."""


class _Stream:
    """A text stream that discards everything after its first failure.

    Attributes:
        error: The failure, or None.
    """

    def __init__(self, stream: TextIO, *, is_needed: bool) -> None:
        self._stream, self._is_needed = stream, is_needed
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write text; raise if the stream is needed and has failed."""
        self._pass_on(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream; raise if it is needed and has failed."""
        self._pass_on(self._stream.flush)

    def _pass_on(self, call: Callable[..., object], *arguments: str) -> None:
        try:
            if self.error is None:
                call(*arguments)
        except OSError as error:
            self.error = error
            self._discard()
        if self.error is not None and self._is_needed:
            raise _OutputLost

    def _discard(self) -> None:
        # Otherwise the interpreter flushes again at exit, and prints an ignored exception.
        with suppress(OSError), open(os.devnull, "wb") as sink:
            os.dup2(sink.fileno(), self._stream.fileno())
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Exit if standard output fails: with 141 if its reader is gone, otherwise with 1 and a message.

    A stream that is closed from the start is closed on purpose and discards its input. Messages that standard error
    cannot take are discarded too, so that the work is not lost with them.
    """
    _occupy_descriptors()
    with ExitStack() as stack:
        stack.callback(_restore, sys.stdout, sys.stderr)
        out, err = (stream or stack.enter_context(open(os.devnull, "w")) for stream in (sys.stdout, sys.stderr))
        guarded = _Stream(out, is_needed=True)
        sys.stdout, sys.stderr = cast(TextIO, guarded), cast(TextIO, _Stream(err, is_needed=False))
        try:
            try:
                yield
            finally:
                sys.stderr.flush()
                sys.stdout.flush()
        except _OutputLost:
            assert guarded.error is not None
            sys.exit(_explain(guarded.error))


def _restore(out: TextIO, err: TextIO) -> None:
    sys.stdout, sys.stderr = out, err


def _explain(error: OSError) -> int:
    """Return the exit status for a failed standard output; print a message unless its reader closed it."""
    if error.errno == errno.EPIPE:
        return _BROKEN_PIPE
    print(f"Error: standard output cannot be written: {error.strerror or error}", file=sys.stderr)
    return 1


def _occupy_descriptors() -> None:
    """Open closed standard descriptors, since a file opened later would get their number and the output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
