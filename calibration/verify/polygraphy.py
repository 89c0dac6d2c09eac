"""Inputs and commands for Polygraphy: tensors of a real rollout for a bundle's graphs and engines."""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle import (
    FP32,
    Stage,
    choose_precision,
    list_engines,
    write_file,
)
from ...errors import CalibrationError
from ...runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from ...runtime.session.model import Model
from ..observe.rollouts import wrapping_chunks
from ..observe.tap import TappedBackend

if TYPE_CHECKING:
    from ...bundle import (
        Bundle,
        Engine,
        Graph,
        Precision,
    )

__all__ = ["write_polygraphy"]

Array = npt.NDArray[Any]
_STAGES = (Stage.FILL, Stage.DENOISE)
# Tolerance between two backends, relative and absolute.
_TOLERANCE, _TOLERANCE_NARROW = 1e-3, 1e-2


def write_polygraphy(bundle: Bundle, folder: Path) -> list[str]:
    """Write inputs for every graph, and return the Polygraphy commands that use them.

    The graphs are those of the newest TensorRT engine, otherwise those that ONNX Runtime would run. They run in ONNX
    Runtime on the CPU until the cache has wrapped; the inputs are those of the last chunk's runs.

    Args:
        bundle: Bundle with the graphs.
        folder: Folder for a file of each graph; created if missing.

    Returns:
        Lines for a shell.

    Raises:
        CalibrationError: A file cannot be written, or an input is FP8, which NumPy lacks.
    """
    engine = next(iter(list_engines(bundle, "tensorrt")), None)
    precision = engine.manifest.precision if engine else choose_precision(bundle, None, "onnxruntime")
    graphs = bundle.graphs(precision)
    if any(spec.dtype == "float8_e4m3fn" for stage in _STAGES for spec in graphs[stage].inputs):
        raise CalibrationError(f"{precision} has an FP8 cache, which Polygraphy's inputs cannot hold; build fp16 first")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CalibrationError(f"{folder}: cannot be created: {error.strerror}") from error
    lines: list[str] = []
    for stage, tensors in _observe(bundle, precision).items():
        inputs = folder / f"{stage}.{precision}.inputs.json"
        write_file(inputs, json.dumps([_encode(tensors)]), fail=CalibrationError)
        lines += _commands(bundle, graphs[stage], stage, precision, engine, inputs)
    return lines


def _observe(bundle: Bundle, precision: Precision) -> dict[Stage, dict[str, Array]]:
    """Return each graph's inputs in the last chunk of a rollout, by stage and tensor."""
    tapped, graphs = TappedBackend(OnnxRuntimeBackend()), bundle.graphs(precision)
    seen: dict[Stage, dict[str, Array]] = {}

    def look(stage: str, tensors: Mapping[str, Array]) -> None:
        seen[Stage(stage)] = {spec.name: tensors[spec.name].copy() for spec in graphs[Stage(stage)].inputs}

    g, rng = bundle.manifest.geometry, np.random.default_rng(0)
    text = rng.standard_normal((g.text_tokens, g.text_width), np.float32) if g.text_width else None
    with Model(bundle, tapped, precision) as model:
        with model.session(seed=0, steps=min(2, g.max_steps), text=text) as session:
            session.start(rng.standard_normal((1, *g.latent_shape), np.float32))
            for _ in range(wrapping_chunks(g) - 1):
                session.step()
            tapped.tap = look
            session.step()
    return seen


def _encode(tensors: Mapping[str, Array]) -> dict[str, dict[str, str]]:
    """Return a feed in the format of Polygraphy's JSON: a .npy file in base 64 for each tensor."""
    feed = {}
    for name, tensor in tensors.items():
        file = io.BytesIO()
        np.save(file, tensor, allow_pickle=False)
        content = base64.b64encode(file.getvalue()).decode()
        feed[name] = {"array": content, "polygraphy_class": "ndarray"}
    return feed


def _commands(
    bundle: Bundle, graph: Graph, stage: Stage, precision: Precision, engine: Engine | None, inputs: Path
) -> Iterator[str]:
    file, outputs = str(bundle.locate(graph.file)), str(inputs.with_suffix("").with_suffix(".outputs.json"))
    tolerance = f"{_TOLERANCE if precision == FP32 else _TOLERANCE_NARROW:g}"
    feed, bounds = ["--load-inputs", str(inputs)], ["--rtol", tolerance, "--atol", tolerance]
    typed = ["--trt", "--strongly-typed"]
    yield _line("inspect", "model", file, "--ignore-external-data", "--show", "layers")
    yield _line("run", file, "--onnxrt", *feed, "--save-outputs", outputs)
    yield _line("run", file, *typed, *feed, "--load-outputs", outputs, *bounds)
    if engine is not None:
        plan = str(engine.path / engine.plan(stage).file.file)
        yield _line("inspect", "model", plan, "--model-type", "engine", "--show", "layers")
        saved = ["--load-outputs", outputs, *bounds]
        yield _line("run", plan, "--model-type", "engine", "--trt", *feed, *saved)
    check = _line("run", "polygraphy_debug.onnx", "--onnxrt", *typed, *feed, *bounds)
    yield f"{_line('debug', 'reduce', file, '-o', str(inputs.with_name(f'{stage}.reduced.onnx')))} --check {check}"


def _line(*words: str) -> str:
    return shlex.join(["polygraphy", *words])
