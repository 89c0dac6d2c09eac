"""Check of the memory that a module needs, before it is built."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

from ..errors import ExportError
from ..hosts import require_memory

__all__ = ["build_within_memory"]

_M = TypeVar("_M", bound=nn.Module)


def build_within_memory(build: Callable[[], _M], what: str, *, besides_nbytes: int = 0) -> _M:
    """Build a module after checking that its parameters and buffers fit in the available memory.

    Args:
        build: Creates the module. Called twice: first on torch's meta device, which allocates nothing.
        what: The module's name in the error message.
        besides_nbytes: Bytes that are needed in addition to the module.

    Raises:
        ExportError: They need more memory than is available.
    """
    with torch.device("meta"):
        shapes = build()
    nbytes = besides_nbytes + sum(tensor.nbytes for tensor in chain(shapes.parameters(), shapes.buffers()))
    require_memory(nbytes, what, "check its sizes, or export on a machine with more memory", fail=ExportError)
    return build()
