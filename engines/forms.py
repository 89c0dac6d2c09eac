"""Forms that a builder substitutes for the functions that graphs call: counted, recorded and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..bundle import FUNCTION_DOMAIN
from ..errors import BuildError

if TYPE_CHECKING:
    from ..bundle import Graph

__all__ = ["AS_EXPORTED", "Forms", "check_forms", "describe_forms"]

# Number of calls replaced by each form, by the function's name.
Forms = Mapping[str, Mapping[str, int]]
AS_EXPORTED = "the exported body"


def check_forms(stage: str, graph: Graph, forms: Forms) -> None:
    """Check that a build replaced as many calls of each function as the graph has.

    Raises:
        BuildError: The numbers differ.
    """
    for name in sorted({*graph.calls, *forms}):
        wanted, found = graph.calls.get(name, 0), sum(forms.get(name, {}).values())
        if found != wanted:
            raise BuildError(
                f"{stage}: model.json counts {wanted} calls of '{FUNCTION_DOMAIN}.{name}', {found} were found to "
                "replace; export the bundle again"
            )


def describe_forms(forms: Forms) -> Iterator[str]:
    """Yield a line for each function, such as ``2 Attention as com.microsoft.Attention``."""
    for name, found in forms.items():
        yield ", ".join(f"{count} {name} as {form}" for form, count in found.items())
