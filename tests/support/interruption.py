"""KeyboardInterrupt in a function, at each point where Python handles signals."""

from __future__ import annotations

import opcode
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

# CPython checks for signals after these; after a call only if it leaves the interpreter loop, as to a C function.
_LOOKS = {"CALL", "CALL_FUNCTION_EX", "JUMP_BACKWARD", "RESUME"}


def interrupt(codes: set[CodeType], place: int, call: Callable[[], object]) -> bool:
    """Run ``call``, interrupted at the ``place``-th such point in ``codes``; return whether it was reached."""
    last: tuple[FrameType, str] | None = None
    seen = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal last, seen
        before, last = last, None
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = True
        if event != "opcode":
            last = before if event == "line" else None
            return trace
        last = (frame, opcode.opname[frame.f_code.co_code[frame.f_lasti]])
        if before is not None and before[0] is frame and before[1] in _LOOKS:
            seen += 1
            if seen == place:
                raise KeyboardInterrupt
        return trace

    tracing = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(tracing)
    return seen >= place
