"""Recorded calls of a denoise graph: its inputs, and what ONNX Runtime's CPU provider made of them.

A case is a folder: inputs.npz, outputs.npz, its plans, and case.json, which names its ONNX file: relative to
the folder of all cases, or in the tree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..running.settings import ROOT

__all__ = ["Case", "find_cases", "save_case"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A recorded call.

    Attributes:
        name: As "sky-fp16".
        graph: The ONNX file.
        inputs: By name; 8 bit floats as bytes.
        outputs: What is wanted, by name.
        plans: Carried plans by target; "any" where none was set.
    """

    name: str
    graph: Path
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    plans: dict[str, Path]


def save_case(folder: Path, name: str, graph: str, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
    """Write a case into the folder of all cases."""
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(target / "inputs.npz", **inputs)  # type: ignore[arg-type]
    np.savez_compressed(target / "outputs.npz", **outputs)  # type: ignore[arg-type]
    (target / "case.json").write_text(json.dumps({"graph": graph}))


def find_cases(folder: Path) -> list[Case]:
    """Return every case of a folder, the sky's FP16 first."""
    found = [_load(folder, path.parent) for path in sorted(folder.glob("*/case.json"))]
    return sorted(found, key=lambda case: (not case.name.startswith("sky-fp16"), not case.name.startswith("sky")))


def _load(folder: Path, place: Path) -> Case:
    named: str = json.loads((place / "case.json").read_text())["graph"]
    graph = ROOT / named.removeprefix("tree:") if named.startswith("tree:") else folder / named
    plans = {path.stem: path for path in sorted(place.glob("*.plan"))}
    return Case(place.name, graph, _arrays(place / "inputs.npz"), _arrays(place / "outputs.npz"), plans)


def _arrays(path: Path) -> dict[str, Array]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}
