"""Links, make targets, commands and the quickstart of the Markdown pages."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vdmrt.cli import main

ROOT = Path(__file__).parent.parent
PAGES = sorted({ROOT / "README.md", *ROOT.glob("*.md"), *ROOT.glob("[a-z]*/*.md")})


def linked_paths(text: str) -> list[str]:
    """Return the targets of a page's relative links and pictures, without their anchors."""
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    return [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_has_a_target(page: Path) -> None:
    missing = [path for path in linked_paths(page.read_text()) if not (page.parent / path).exists()]

    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_named_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))

    assert named <= targets


def test_the_quickstart_runs(tiny_bundle: Path, tmp_path: Path) -> None:
    """Run the README's Python block, unchanged, in a new interpreter."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(block.splitlines()) <= 15
    shutil.copytree(tiny_bundle, tmp_path / "bundle")

    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_the_imports_of_the_profiler_page_exist() -> None:
    imports = re.findall(r"^from (vdmrt\S*) import ([\w, ]+)", (ROOT / "profiler/README.md").read_text(), re.MULTILINE)

    assert len(imports) == 3
    for module, names in imports:
        made = importlib.import_module(module)
        assert [name for name in names.strip().split(", ") if not hasattr(made, name)] == []


def test_every_command_is_in_the_table() -> None:
    rows = set(re.findall(r"^\| `vdmrt ([a-z]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE))

    assert rows == set(main.commands)
