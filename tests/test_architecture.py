"""The size of files, folders and functions, the depth of imports, and the picture of the architecture."""

from __future__ import annotations

import ast
import importlib.util
from types import ModuleType

from house import ALLOWED, FOLDERS, MODULES, ROOT, imports_of, longest_chain, module_name

# Without `__init__.py`.
MOST_MODULES = 12
MOST_LINES = 400
MOST_DEPTH = 11
# 90th percentile of the lines of functions, including docstrings.
MOST_FUNCTION_LINES = 23


def test_folders_have_few_modules() -> None:
    folders = {path.parent for path in MODULES if path.parent != ROOT}
    counts = {folder: len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) for folder in folders}

    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_files_are_short() -> None:
    files = [*MODULES, *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.[ch]"))]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}

    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_nine_of_ten_functions_are_short() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in MODULES]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = sorted((node.end_lineno or node.lineno) - node.lineno + 1 for node in functions)

    assert lengths[int(0.9 * len(lengths))] <= MOST_FUNCTION_LINES


def test_imports_are_shallow() -> None:
    """A name counts where it is defined, whatever folder offers it; names that are imported on first use count too."""
    chain = max((longest_chain(module_name(path)) for path in MODULES), key=len)

    assert len(chain) <= MOST_DEPTH, " -> ".join(chain)


def test_no_folder_is_imported_as_a_whole() -> None:
    """The length of a chain through it would be unknown."""
    folders = {module_name(path) for path in MODULES if path.name == "__init__.py"}
    modules = [path for path in MODULES if path.name != "__init__.py"]
    found = [(path, f"{origin}.{name}") for path in modules for origin, name in imports_of(path)]

    assert [(path, name) for path, name in found if name in folders] == []


def test_the_picture_equals_its_source() -> None:
    drawing = load_drawing()
    text = (ROOT / "docs" / "architecture.txt").read_text(encoding="utf-8")

    assert (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8") == drawing.draw(text)


def test_the_picture_orders_folders_by_allowed_imports() -> None:
    text = (ROOT / "docs" / "architecture.txt").read_text(encoding="utf-8")
    rows = load_drawing().read_sections(text)["rows"]
    height = {name.removesuffix(".py"): -index for index, row in enumerate(rows) for name in row}

    assert height.keys() == ALLOWED.keys() - {"__init__", "__main__"}
    for room, allowed in ALLOWED.items():
        if room in height:
            assert all(height[other] < height[room] for other in allowed - {"__init__"}), room


def load_drawing() -> ModuleType:
    """Return the module that draws the picture, a script outside the package."""
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
