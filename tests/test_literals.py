"""Names of precisions, stages and tensors are literals in one place only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import MODULES, ROOT

from vdmrt.bundle import PRECISIONS, Stage

OUTSIDE = [path for path in MODULES if path.relative_to(ROOT).parts[0] != "bundle"]
# Only families name their stages and tensors. Words with other meanings too, as "text", are not checked.
OUTSIDE_FAMILIES = [path for path in OUTSIDE if path.relative_to(ROOT).parts[:2] != ("export", "families")]
STAGES = {str(stage) for stage in Stage} - {"prompt"}
TENSORS = {"slot_valid", "key_positions", "context_index", "timesteps", "coefficients"}
_STEMS = ("past_", "present_", "context_k", "context_v", "text_k", "text_v", "next_")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string in a module, including parts of f-strings; no docstrings, dtypes, slots."""
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, _DOCUMENTED):
            children = [child for child in children if not _is_text(child)]
        if not _is_dtype_table(node) and not _is_slots(node):
            pending += children


def names_tensor(text: str) -> bool:
    """Whether a string is a tensor's name or its beginning, and not a sentence."""
    return text in TENSORS or (text.startswith(_STEMS) and " " not in text)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_slots(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__slots__"


def _is_dtype_table(node: ast.AST) -> bool:
    """Whether a dictionary contains types of tensors, one of which is spelled as a precision: "int8"."""
    parts = [*node.keys, *node.values] if isinstance(node, ast.Dict) else []
    return any(isinstance(part, ast.Constant) and part.value == "float32" for part in parts)


def test_no_precision_is_a_literal_outside_the_bundle() -> None:
    names = {str(precision) for precision in PRECISIONS}

    assert [(path, line, text) for path in OUTSIDE for line, text in literals(path) if text in names] == []


def test_no_stage_is_a_literal_outside_bundle_and_families() -> None:
    found = [(path, line, text) for path in OUTSIDE_FAMILIES for line, text in literals(path) if text in STAGES]

    assert found == []


def test_no_tensor_is_found_by_its_name() -> None:
    found = [(path, line, text) for path in OUTSIDE_FAMILIES for line, text in literals(path) if names_tensor(text)]

    assert found == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('spec.name == "past_k.0"', True),
        ('name.startswith("present_")', True),
        ('inputs["slot_valid"]', True),
        ('raise ValueError("past_k is too long")', False),
        ('checked_array("text", text)', False),
    ],
)
def test_a_tensor_name_is_detected(line: str, found: bool, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(line)

    assert any(names_tensor(text) for _, text in literals(path)) is found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('if precision == "fp16":', ["fp16"]),
        ('name = f"fp32{suffix}"', ["fp32"]),
        ('def f() -> None:\n    """fp16"""', []),
        ('TYPES = {"FLOAT": "float32", "INT8": "int8"}', []),
    ],
)
def test_a_literal_is_detected(line: str, found: list[str], tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(line + " pass" * line.endswith(":"))

    assert [text for _, text in literals(path)] == found
