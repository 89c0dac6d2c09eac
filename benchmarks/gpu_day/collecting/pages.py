"""Writes the generated blocks of the pages: what stands between two markers comes from the records, all of it."""

from __future__ import annotations

import re
from pathlib import Path

from .tables import BLOCKS

__all__ = ["PAGES", "generate", "write_pages"]

PAGES = ("README.md", "docs/benchmarks.md")
_BLOCK = re.compile(r"(<!-- figures: ([\w-]+); generated, do not edit -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def write_pages(root: Path, results: Path, *, check: bool) -> int:
    """Write every page's blocks anew.

    Args:
        root: Folder of the pages.
        results: Folder of the records.
        check: Whether to write nothing and only look.

    Returns:
        1 where ``check`` finds a block that is not as it would be, else 0.
    """
    stale = 0
    for name in PAGES:
        path = root / name
        text = path.read_text(encoding="utf-8")
        wanted = generate(text, results)
        if text != wanted and check:
            print(f"{name} is not as its records say; run: python benchmarks/gpu_day pages")
            stale = 1
        elif text != wanted:
            path.write_text(wanted, encoding="utf-8")
            print(f"{name} is written anew")
    return stale


def generate(text: str, results: Path) -> str:
    """Return a page with its blocks as the records give them.

    Raises:
        ValueError: A marker names a block that there is not.
    """

    def block(match: re.Match[str]) -> str:
        name = match.group(2)
        if name not in BLOCKS:
            raise ValueError(f"no block {name!r}; known are {', '.join(BLOCKS)}")
        body = "\n\n".join(part for part in BLOCKS[name](results) if part)
        return f"{match.group(1)}\n{body}\n\n{match.group(3)}"

    return _BLOCK.sub(block, text)
