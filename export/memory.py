"""Memory that a module needs, compared with what is available before it is built."""

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
    """Build a module, unless its parameters and buffers need more memory than is available.

    Args:
        build: Makes the module. It is called twice: first on torch's meta device, which allocates nothing.
        what: Names the module in the error.
        besides_nbytes: Bytes that are needed beside the module.

    Raises:
        ExportError: They need more.
    """
    with torch.device("meta"):
        shapes = build()
    nbytes = besides_nbytes + sum(tensor.nbytes for tensor in chain(shapes.parameters(), shapes.buffers()))
    require_memory(nbytes, what, "check its sizes, or export on a machine with more memory", fail=ExportError)
    return build()
