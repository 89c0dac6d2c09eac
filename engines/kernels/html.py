"""The page of a kernel report: figures, a picture of a transformer block, and its kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ...bundle import Stage, format_count
from ...reporting import Bar, Headline, Page, Table, Timeline, judge_figures, tabulate_figures
from .card import CARD
from .text import difference_rows, figure_rows

if TYPE_CHECKING:
    from ...reporting import Cell, Figure
    from .comparison import Difference
    from .kernel import Kernel
    from .report import KernelReport

__all__ = ["render_kernels"]

_TONES = {"product": "tone-a", "attention": "tone-c", "moving": "tone-b"}
_MEANINGS = {"product": "computes", "attention": "fused attention", "moving": "moves data, no product"}
_LONGEST_NAME = 44  # characters of a kernel's name beside the picture
_PICTURE = (
    "Kernels in their order; the length of a bar is what the kernel reads and writes, as if no cache kept any of it."
)


def render_kernels(
    report: KernelReport, gates: Sequence[Figure] = (), *, against: str = "", differences: Sequence[Difference] = ()
) -> str:
    """Return a report as one self-contained HTML page.

    Args:
        report: The report.
        gates: Limits and their results.
        against: Key of the engine that it is compared with.
        differences: The comparison.
    """
    verdict = judge_figures(gates) if gates else Headline(_headline(report))
    page = Page(f"Kernels of {report.engine}", subtitle=[report.title, CARD.describe()], verdict=verdict)
    if gates:
        page.add_section("Limits", tabulate_figures(gates))
    page.add_section(
        "Figures", Table(["", *report.stages], list(figure_rows(report)), words=True, name="kernel-figures")
    )
    if differences:
        page.add_section(
            f"Against {against}", _compare(differences), text="The ratio is this one's figure over the other's."
        )
    for stage, found in report.stages.items():
        for block, kernels in found.blocks_to_show.items():
            name = f"{stage}, block {block}"
            page.add_section(
                f"{name}: {format_count(len(kernels), 'kernel')}",
                _draw(name, kernels),
                _tabulate(f"{stage}-{block}", kernels),
                text=_PICTURE,
            )
    return page.render()


def _headline(report: KernelReport) -> str:
    stage = Stage.DENOISE if Stage.DENOISE in report.stages else next(iter(report.stages))
    found = report.stages[stage]
    return f"{stage}: {format_count(len(found.kernels), 'kernel')}, {found.nbytes / 1e6:.1f} MB moved"


def _compare(differences: Sequence[Difference]) -> Table:
    rows = list(difference_rows(differences))
    return Table(["stage", "figure", "this", "other", "difference", "ratio"], rows, words=True, name="comparison")


def _draw(name: str, kernels: Sequence[Kernel]) -> Timeline:
    """Draw a lane for each kernel, each bar beginning where the previous one ends."""
    lanes, begin = {}, 0.0
    for number, kernel in enumerate(kernels, start=1):
        end = begin + kernel.nbytes / 1e6
        title = f"{kernel.layer.name}, {_MEANINGS[kernel.work]}"
        lanes[f"{number} {_shorten(kernel.label)}"] = [Bar(begin, end, _TONES[kernel.work], title)]
        begin = end
    legend = tuple((_TONES[work], meaning) for work, meaning in _MEANINGS.items())
    return Timeline(f"Bytes moved by {name}", "MB", lanes, legend)


def _tabulate(name: str, kernels: Sequence[Kernel]) -> Table:
    head = ["kernel", "number", "kind", "work", "MB", "GFLOP", "roofline, µs", "operands", "reads", "writes"]
    rows = [[*_cells(number, kernel)] for number, kernel in enumerate(kernels, start=1)]
    return Table(head, rows, sorts=True, name=f"kernels-{name}", title=f"Kernels of {name}")


def _cells(number: int, kernel: Kernel) -> Iterator[Cell]:
    layer = kernel.layer
    yield from (_shorten(kernel.label), number, layer.kind, _MEANINGS[kernel.work])
    yield from (kernel.nbytes / 1e6, kernel.flops / 1e9, kernel.roofline_us)
    yield " x ".join(kernel.operand_types) if kernel.computes else ""
    for sides in ((*layer.inputs, *layer.constants), layer.outputs):
        yield ", ".join(f"{side.dtype}[{','.join(map(str, side.shape))}]" for side in sides)


def _shorten(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
