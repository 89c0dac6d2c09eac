"""Modules that an import loads, and names that a package exports."""

from __future__ import annotations

import ast
import importlib
import re
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
    """Return ``sys.modules`` of a new interpreter after ``code``, which may end in SystemExit."""
    report = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=open('modules', 'w')))"
    command = [sys.executable, "-c", f"{report}\n{code}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set((folder / "modules").read_text().split())


def public_names(package: str) -> set[str]:
    """Return the names that the package's ``__init__.py`` imports from its modules or defines, without underscore."""
    init = ROOT.joinpath(*package.split(".")[1:], "__init__.py")
    names: set[str] = set()
    for node in ast.walk(ast.parse(init.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return {name for name in names if not name.startswith("_")}


def listing_order(name: str) -> tuple[bool, bool, list[str]]:
    """Sort constants before classes before functions, and numbers in names by value, as imports are sorted."""
    parts = [part.zfill(8) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    return not name.isupper(), not name[0].isupper(), parts


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import vdmrt", BUILDERS | MEDIA | TALK),
        ("import vdmrt.bundle", BUILDERS | MEDIA | TALK | {"numpy"}),
        ("import vdmrt.export", BUILDERS),
        ("import vdmrt.runtime", BUILDERS | MEDIA | TALK | {"safetensors"}),
        ("import vdmrt.engines", BUILDERS | MEDIA | TALK | {"numpy"}),
        ("from vdmrt.cli import main; main(['--help'])", BUILDERS | {"numpy"}),
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
def test_every_exported_name_exists(package: str) -> None:
    module = importlib.import_module(package)

    assert [name for name in getattr(module, "__all__", []) if not hasattr(module, name)] == []


@pytest.mark.parametrize("package", ["vdmrt", "vdmrt.runtime"])
def test_names_imported_on_first_use_are_listed(package: str) -> None:
    module = importlib.import_module(package)

    assert set(dir(module)) >= {*module.__all__, "__doc__"}


def test_a_submodule_is_available_without_an_import(tmp_path: Path) -> None:
    """By its full name after ``import vdmrt``, as in the README."""
    code = "import vdmrt; vdmrt.runtime.Noise; vdmrt.errors.VdmrtError; vdmrt.bundle.open_bundle"

    assert "vdmrt.runtime.sampling.noise" in modules_loaded_by(code, tmp_path)


def test_an_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'vdmrt' has no attribute 'lode'"):
        _ = importlib.import_module("vdmrt").lode
    with pytest.raises(AttributeError, match="module 'vdmrt.runtime' has no attribute 'Nose'"):
        _ = importlib.import_module("vdmrt.runtime").Nose


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vdmrt", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0 and done.stdout.startswith("Usage: python -m vdmrt [OPTIONS] COMMAND")
