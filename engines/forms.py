"""The form that a builder gives to each function that the graphs call: counted, recorded, and never silently none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..bundle import FUNCTION_DOMAIN
from ..errors import BuildError

if TYPE_CHECKING:
    from ..bundle import Graph

__all__ = ["AS_EXPORTED", "Forms", "check_forms", "describe_forms"]

# How many calls took which form, by the function's name.
Forms = Mapping[str, Mapping[str, int]]
AS_EXPORTED = "the exported body"


def check_forms(stage: str, graph: Graph, forms: Forms) -> None:
    """Refuse a build that replaced fewer calls, or others, than the graph has.

    Raises:
        BuildError: Says both numbers.
    """
    for name in sorted({*graph.calls, *forms}):
        wanted, found = graph.calls.get(name, 0), sum(forms.get(name, {}).values())
        if found != wanted:
            raise BuildError(
                f"{stage}: model.json counts {wanted} calls of '{FUNCTION_DOMAIN}.{name}', {found} were found to "
                "replace; export the bundle again"
            )


def describe_forms(forms: Forms) -> Iterator[str]:
    """Yield a line for each function, as ``2 Attention as com.microsoft.Attention``."""
    for name, found in forms.items():
        yield ", ".join(f"{count} {name} as {form}" for form, count in found.items())
