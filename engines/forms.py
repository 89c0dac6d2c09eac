"""The form that a builder gives to each function that the graphs call: counted, recorded, and never silently none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..bundle import FUNCTION_DOMAIN, Bundle, Graph
from ..errors import BuildError

__all__ = ["AS_EXPORTED", "Forms", "check_calls", "check_forms", "describe_forms"]

# How many calls took which form, by the function's name.
Forms = Mapping[str, Mapping[str, int]]
AS_EXPORTED = "as exported"


def check_calls(bundle: Bundle, graphs: Mapping[str, Graph]) -> None:
    """Refuse the graphs of a bundle that was exported before attentions were called by name.

    Raises:
        BuildError: Says how to export it again.
    """
    if any(graph.calls is None for graph in graphs.values()):
        command = bundle.manifest.provenance.get("command", "vdmrt export")
        raise BuildError(
            f"{bundle.path}: its graphs do not name their attentions, so that no engine can be built; export it again "
            f"with: {command}"
        )


def check_forms(stage: str, graph: Graph, forms: Forms) -> None:
    """Refuse a build that replaced fewer calls, or others, than the graph has.

    Raises:
        BuildError: Says both numbers.
    """
    for name, wanted in (graph.calls or {}).items():
        found = sum(forms.get(name, {}).values())
        if found != wanted:
            raise BuildError(
                f"{stage}: model.json counts {wanted} calls of '{FUNCTION_DOMAIN}.{name}', {found} were found to "
                "replace; export the bundle again"
            )


def describe_forms(forms: Forms) -> Iterator[str]:
    """Yield a line for each function, as ``2 Attention as com.microsoft.Attention``."""
    for name, found in forms.items():
        yield ", ".join(f"{count} {name} as {form}" for form, count in found.items())
