"""Names that are spelled in one place: outside it, they are constants or fields."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import MODULES, ROOT

from vdmrt.bundle import PRECISIONS

OUTSIDE = [path for path in MODULES if path.relative_to(ROOT).parts[0] != "bundle"]
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string in a module, pieces of f-strings included; no docstrings, no dtypes."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, _DOCUMENTED):
            children = [child for child in children if not _is_text(child)]
        if not _is_dtype_table(node):
            pending += children


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_dtype_table(node: ast.AST) -> bool:
    """Whether a dictionary names the types of tensors: one of them is called as a precision is, "int8"."""
    parts = [*node.keys, *node.values] if isinstance(node, ast.Dict) else []
    return any(isinstance(part, ast.Constant) and part.value == "float32" for part in parts)


def test_no_precision_is_spelled_outside_the_bundle() -> None:
    names = {str(precision) for precision in PRECISIONS}

    assert [(path, line, text) for path in OUTSIDE for line, text in literals(path) if text in names] == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('if precision == "fp16":', ["fp16"]),
        ('name = f"fp32{suffix}"', ["fp32"]),
        ('def f() -> None:\n    """fp16"""', []),
        ('TYPES = {"FLOAT": "float32", "INT8": "int8"}', []),
    ],
)
def test_a_literal_is_seen(line: str, found: list[str], tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(line + " pass" * line.endswith(":"))

    assert [text for _, text in literals(path)] == found
