"""What an import loads, and what a package offers."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ["vdmrt", *sorted(f"vdmrt.{init.parent.name}" for init in ROOT.glob("*/__init__.py"))]
BUILDERS = {"torch", "onnx", "onnxruntime", "tensorrt"}
MEDIA = {"av", "PIL"}
TALK = {"rich", "click"}


def modules_loaded_by(code: str, folder: Path) -> set[str]:
    """Return what a fresh interpreter has in ``sys.modules`` after ``code``, which may end in SystemExit."""
    report = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=open('modules', 'w')))"
    command = [sys.executable, "-c", f"{report}\n{code}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set((folder / "modules").read_text().split())


def public_names(package: str) -> set[str]:
    """Return what the package's ``__init__.py`` takes from its own modules or defines, without underscore."""
    init = ROOT.joinpath(*package.split(".")[1:], "__init__.py")
    names: set[str] = set()
    for node in ast.walk(ast.parse(init.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return {name for name in names if not name.startswith("_")}


def listing_order(name: str) -> tuple[bool, bool, str]:
    """Sort constants before classes before functions, as imports are sorted."""
    return not name.isupper(), not name[0].isupper(), name


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import vdmrt", BUILDERS | MEDIA | TALK),
        ("import vdmrt.bundle", BUILDERS | MEDIA | TALK | {"numpy"}),
        ("import vdmrt.export", BUILDERS),
        ("import vdmrt.runtime", BUILDERS | MEDIA | TALK | {"safetensors"}),
        ("import vdmrt.engines", BUILDERS | MEDIA | TALK),
        ("from vdmrt.cli import main; main(['--help'])", BUILDERS),
    ],
)
def test_import_stays_light(code: str, forbidden: set[str], tmp_path: Path) -> None:
    loaded = modules_loaded_by(code, tmp_path)

    assert "vdmrt" in loaded
    assert loaded & forbidden == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_the_sorted_list_of_public_names(package: str) -> None:
    offered = getattr(importlib.import_module(package), "__all__", [])

    assert offered == sorted(public_names(package), key=listing_order)


@pytest.mark.parametrize("package", [*PACKAGES, "vdmrt.errors"])
def test_every_offered_name_is_there(package: str) -> None:
    module = importlib.import_module(package)

    assert [name for name in getattr(module, "__all__", []) if not hasattr(module, name)] == []
