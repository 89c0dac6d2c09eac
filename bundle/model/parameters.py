"""Roles of a model's parameters, by name, for calibration and the profiler: declared, never guessed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CacheProjections", "ParameterNames"]

_LAYER = "{layer}"


@dataclass(frozen=True)
class CacheProjections:
    """Names of the projections around the KV cache, with ``{layer}`` for the block's number.

    Each has a ``weight`` and optionally a ``bias``; their first axis is the output channels. A module that serves as
    several of them concatenates its rows in the order query, key, value.

    Attributes:
        query: Computes the queries.
        key: Computes the keys that are cached.
        value: Computes the values that are cached.
        output: Reads the output of the attention, with the same channels as the values.
        pairs: Whether channels 2m and 2m + 1 of a query and a key are rotated together by their position.
    """

    query: str
    key: str
    value: str
    output: str
    pairs: bool = False

    def of_layer(self, layer: int) -> CacheProjections:
        """Return the names of one block."""
        names = (self.query, self.key, self.value, self.output)
        query, key, value, output = (name.replace(_LAYER, str(layer)) for name in names)
        return CacheProjections(query, key, value, output, self.pairs)


@dataclass(frozen=True)
class ParameterNames:
    """Names of parameters, as in the model's ``state_dict``.

    Attributes:
        block: Prefix of the parameters of a transformer block, with ``{layer}`` for its number.
        floating: Shell patterns of linears that stay in floating point unless they are requested.
        projections: The projections around the KV cache; None where their channels cannot be scaled against each other.
    """

    block: str
    floating: tuple[str, ...] = ()
    projections: CacheProjections | None = None

    def __post_init__(self) -> None:
        if self.block.count(_LAYER) != 1:
            raise ValueError(f"block must contain {_LAYER} once, got {self.block!r}")
