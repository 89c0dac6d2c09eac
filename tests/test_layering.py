"""Allowed imports between folders."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from house import ALLOWED, MODULES, ROOT

NEVER_IMPORTED = {"tests", "benchmarks", "examples"}


def imported_names(path: Path) -> set[str]:
    """Return the dotted names that the module at ``path`` imports anywhere, with relative names made absolute."""
    package = ["vdmrt", *path.relative_to(ROOT).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = [*above, *([node.module] if node.module else [])]
            found.update(".".join([*origin, alias.name]) for alias in node.names)
    return found


def imported_rooms(path: Path) -> set[str]:
    """Return the folders and root modules that the module at ``path`` imports, without its own."""
    rooms: set[str] = set()
    for name in imported_names(path):
        top, _, rest = name.partition(".")
        if name == "vdmrt.__version__":
            continue  # a constant, available before any import
        if top == "vdmrt":
            room = rest.partition(".")[0]
            rooms.add(room if room in ALLOWED.keys() | NEVER_IMPORTED else "__init__")
        elif top in ALLOWED.keys() | NEVER_IMPORTED:
            rooms.add(top)
    return rooms - {room_of(path)}


def imported_libraries(path: Path) -> set[str]:
    """Return the top-level names outside vdmrt and the standard library that ``path`` imports."""
    tops = {name.partition(".")[0] for name in imported_names(path)}
    return tops - sys.stdlib_module_names - {"vdmrt"}


def opened_libraries(path: Path) -> set[str]:
    """Return the top-level names that the module at ``path`` imports when it runs, by statement or by name."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found.update(str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))
    return {name.partition(".")[0] for name in found}


def room_of(path: Path) -> str:
    """Return the folder of the module at ``path``, or its name at the root."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_folder_has_a_rule() -> None:
    assert {room_of(path) for path in MODULES} <= ALLOWED.keys()


def test_folders_import_only_what_is_allowed() -> None:
    for path in MODULES:
        assert imported_rooms(path) <= ALLOWED[room_of(path)], path


def test_only_command_modules_import_the_console() -> None:
    for path in MODULES:
        if "console" in imported_rooms(path):
            assert path.name.endswith("cli.py"), path


def test_bundle_and_errors_import_only_the_standard_library() -> None:
    for path in (ROOT / "errors.py", *(ROOT / "bundle").rglob("*.py")):
        assert imported_libraries(path) == set(), path


def test_runtime_imports_neither_torch_nor_onnx() -> None:
    forbidden = {"torch", "torchvision", "onnx", "onnx_ir", "onnxscript"}

    for path in (ROOT / "runtime").rglob("*.py"):
        assert imported_libraries(path) & forbidden == set(), path


def test_only_export_imports_torch() -> None:
    rooms = {room_of(path) for path in MODULES if "torch" in imported_libraries(path)}

    assert rooms <= {"export"}


@pytest.mark.parametrize(
    ("library", "home"),
    [("cuda", "driver"), ("onnxruntime", "onnxruntime"), ("pynvml", "nvml"), ("tensorrt", "tensorrt")],
)
def test_each_optional_library_is_imported_in_one_module(library: str, home: str) -> None:
    opening = {path for path in MODULES if library in opened_libraries(path)}

    assert opening <= {ROOT / "hosts" / f"{home}.py"}


@pytest.mark.parametrize(
    ("line", "room"),
    [
        ("from ..runtime import Ring", "runtime"),
        ("from ..runtime.session import Session", "runtime"),
        ("from .. import runtime", "runtime"),
        ("from .. import load", "__init__"),
        ("import vdmrt.runtime", "runtime"),
        ("import vdmrt", "__init__"),
        ("from vdmrt import runtime", "runtime"),
        ("from vdmrt.runtime.session.session import Session", "runtime"),
        ("import runtime", "runtime"),
        ("from tests import helper", "tests"),
        ("def late():\n    from ..cli import main", "cli"),
    ],
)
def test_forbidden_imports_are_detected(line: str, room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "export" / "graphs.py"
    path.parent.mkdir()
    path.write_text(line)

    assert imported_rooms(path) == {room}
