"""The package's modules, their imports, read from the source, and the table of allowed imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["ALLOWED", "FOLDERS", "MODULES", "ROOT", "defining_module", "imports_of", "longest_chain", "module_name"]

ROOT = Path(__file__).parent.parent.parent
# Folders and root modules that each of them may import.
ALLOWED = {
    "_lazy": set[str](),
    "errors": set[str](),
    "bundle": {"errors"},
    "hosts": {"errors", "bundle"},
    "console": {"errors", "bundle"},
    "reporting": {"errors", "bundle"},
    "export": {"_lazy", "errors", "bundle", "hosts", "console"},
    "engines": {"_lazy", "errors", "bundle", "hosts", "console", "reporting"},
    "runtime": {"_lazy", "errors", "bundle", "hosts", "console"},
    "media": {"_lazy", "errors", "bundle", "hosts", "console", "runtime"},
    "profiler": {"_lazy", "errors", "bundle", "hosts", "console", "reporting", "runtime"},
    "calibration": {"errors", "bundle", "hosts", "console", "reporting", "runtime", "media", "profiler"},
    "building": {"errors", "bundle", "calibration", "engines"},
    "cli": {
        "building",
        "__init__",
        "errors",
        "bundle",
        "hosts",
        "console",
        "export",
        "engines",
        "runtime",
        "media",
        "profiler",
        "calibration",
    },
    "__init__": {"errors", "bundle", "runtime", "media", "profiler", "building"},
    "__main__": {"cli"},
}
FOLDERS = sorted(init.parent.name for init in ROOT.glob("*/__init__.py"))
MODULES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])


def module_name(path: Path) -> str:
    """Return a module's dotted name; that of its folder for an ``__init__.py``."""
    parts = ("vdmrt", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_PATHS = {module_name(path): path for path in MODULES}


def imports_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the module and the name of every ``from … import`` of the package, including those inside functions.

    Imports for type checkers are left out, because they are never executed.
    """
    package = ["vdmrt", *path.relative_to(ROOT).parts[:-1]]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((origin, alias.name) for alias in node.names)


def defining_module(origin: str, name: str) -> str | None:
    """Return the module that defines the name of ``from origin import name``, through the folders' exports."""
    if f"{origin}.{name}" in _PATHS:
        return f"{origin}.{name}"
    if name == "__version__":
        return None  # a constant of the root, which imports nothing by itself
    return _offered(origin).get(name, origin) if origin in _PATHS else None


@cache
def _offered(package: str) -> dict[str, str]:
    """Return the names that a folder's ``__init__.py`` exports, and the modules that define them."""
    path = _PATHS[package]
    if path.name != "__init__.py":
        return {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {}
    for node in ast.walk(tree):  # including those for type checkers: their modules are imported on first use
        if isinstance(node, ast.ImportFrom) and node.level:
            origin = f"{package}.{node.module}" if node.module else package
            found.update({alias.name: defining_module(origin, alias.name) or origin for alias in node.names})
    return found


@cache
def longest_chain(module: str) -> tuple[str, ...]:
    """Return the longest chain of modules that starts with a module, each imported by the previous one."""
    path = _PATHS[module]
    if path.name == "__init__.py":  # its exports are counted in the modules that define them
        return (module,)
    found = {defining_module(*one) for one in imports_of(path)} - {None, module}
    return (module, *max((longest_chain(one) for one in found if one is not None), key=len, default=()))
