"""What the names of a model's parameters mean, where calibration and profiler must know: stated, never guessed."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CacheProjections", "ParameterNames"]

_LAYER = "{layer}"


@dataclass(frozen=True)
class CacheProjections:
    """The modules between which the KV cache stands, with ``{layer}`` for the block's number.

    Each has a ``weight``, and a ``bias`` perhaps, whose first axis is what it writes. Modules that are one and the same
    hold their rows one after the other: query, key, value.

    Attributes:
        query: Writes the queries.
        key: Writes the keys that are cached.
        value: Writes the values that are cached.
        output: Reads what was attended to, of the same channels as the values.
        pairs: Whether channels 2m and 2m + 1 of a query and a key are rotated by their position, and so go together.
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
    """Names of parameters, which are those of the model's ``state_dict``.

    Attributes:
        block: What the parameters of a transformer block start with, with ``{layer}`` for its number.
        floating: Patterns, as in a shell, of linears that stay in floating point unless they are asked for.
        projections: The modules around the KV cache; None where their channels cannot be scaled against each other.
    """

    block: str
    floating: tuple[str, ...] = ()
    projections: CacheProjections | None = None

    def __post_init__(self) -> None:
        if self.block.count(_LAYER) != 1:
            raise ValueError(f"block must contain {_LAYER} once, got {self.block!r}")
