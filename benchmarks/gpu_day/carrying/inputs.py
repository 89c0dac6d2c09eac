"""Makes what the base kit holds: bundles, recorded calls, descriptions of full-size models. Needs torch and onnx."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..checks.golden import Rollout, find_rollouts
from ..full_size.weights import describe_weights
from ..rtx.cases import save_case
from ..running.settings import ROOT
from .archive import sha256_of

__all__ = ["describe_full_size", "export_recorded", "export_tiny", "quantize_sky", "record_call", "record_calls"]

# Little, for speed: what is compared is two runtimes on one graph, however good the graph is.
SKY = ROOT / "examples" / "sky" / "bundle"
SAMPLES, STEPS, CLIPS, CLIP_FRAMES, GIVEN = 4, 2, 1, 33, 3
TINY_DEPTH = 2
SMALL_WIDTH, SMALL_HEADS = 64, 4
_EIGHT_BITS: tuple[tuple[Literal["int8", "fp8"], Literal["int8", "fp8"] | None], ...] = (
    ("int8", None),
    ("fp8", None),
    ("int8", "int8"),
    ("fp8", "fp8"),
)
SKY_PRECISIONS = ("fp16", "int8-fp16", "fp8", "int8-fp16-kv8", "fp8-kvf8")


def export_recorded(rollout: Rollout, folder: Path) -> Path:
    """Export the bundle of a recorded rollout into a folder of bundles; return it."""
    from vdmrt.bundle import EXPORTED
    from vdmrt.export import ExportOptions, export_bundle
    from vdmrt.export.checkpoint import load_model
    from vdmrt.export.families.ca2vdm.arguments import config_from_arguments

    config = json.loads((rollout.folder / "config.json").read_text())
    options = ExportOptions(
        precisions=EXPORTED,
        chunk_frames=rollout.chunk,
        slots=rollout.settings["kv_cache_max_seqlen"],
        requests=len(rollout.rows),
    )
    model = load_model(config_from_arguments(config["model"]), rollout.folder)
    return export_bundle(model, folder / rollout.bundle, options, name=rollout.folder.name).path


def export_all_recorded(golden: Path, folder: Path) -> None:
    """Export the bundles of all recorded rollouts, each geometry once."""
    for rollout in find_rollouts(golden):
        if not (folder / rollout.bundle).is_dir():
            export_recorded(rollout, folder)


def export_tiny(folder: Path) -> None:
    """Export the tiny model of the long rollouts."""
    from vdmrt.bundle import EXPORTED
    from vdmrt.export import ExportOptions, TransformerConfig, export_bundle, random_model

    config = TransformerConfig(
        latent_size=(4, 6), hidden_size=32, depth=TINY_DEPTH, heads=2, position_count=12, mask_channel=True,
        context="previous", context_frames=2,
    )  # fmt: skip
    options = ExportOptions(precisions=EXPORTED, chunk_frames=3, slots=7, requests=2, max_steps=6, prediction="v")
    export_bundle(random_model(config, 1), folder / "tiny", options, name="tiny", random_weights=True)


def quantize_sky(folder: Path) -> None:
    """Copy the sky's bundle and add INT8 and FP8 graphs, each also with an 8 bit cache."""
    from vdmrt.calibration.calibrating import CalibrationRequest, calibrate

    target = folder / "sky"
    shutil.copytree(SKY, target, ignore=shutil.ignore_patterns("engines"))
    with tempfile.TemporaryDirectory() as work:
        clips = Path(work) / "clips.npy"
        np.save(clips, sky_clips())
        for precision, kv in _EIGHT_BITS:
            request = CalibrationRequest(
                target,
                clips,
                precision,
                samples=SAMPLES,
                steps=STEPS,
                smooth=0.0,
                method="max",
                rounding="nearest",
                kv=kv,
                observations=Path(work),
            )
            calibrate(request)


def sky_clips() -> np.ndarray[Any, Any]:
    """Return rendered skies, uint8 [clip, frame, height, width, 3]."""
    import runpy

    sky = runpy.run_path(str(ROOT / "examples" / "sky" / "sky.py"))["Sky"]
    return np.stack([sky(5000 + place).frames(0, CLIP_FRAMES) for place in range(CLIPS)])


def record_calls(sky: Path, bundles: Path, folder: Path) -> None:
    """Record one denoise call of each precision of the sky and of each recorded model's FP16.

    Args:
        sky: The sky's bundle with every precision.
        bundles: Folder of the recorded models' bundles.
        folder: Gets "fp16" and "eight-bits", folders of cases, in each beside them the graphs that the tree lacks.
    """
    for precision in SKY_PRECISIONS:
        record_call(sky, precision, folder / ("fp16" if precision == "fp16" else "eight-bits"))
    for path in sorted(bundles.glob("*/model.json")):
        if path.parent.name != "tiny":
            record_call(path.parent, "fp16", folder / "fp16")


def record_call(path: Path, precision: str, folder: Path) -> None:
    """Run a chunk after some given frames on the CPU, and keep the last denoise call."""
    from vdmrt.bundle import Precision, open_bundle
    from vdmrt.calibration.observe.tap import TappedBackend
    from vdmrt.runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
    from vdmrt.runtime.session.model import Model

    bundle, parsed = open_bundle(path), Precision.parse(precision)
    graph = bundle.manifest.graphs[parsed]["denoise"]
    backend, kept = TappedBackend(OnnxRuntimeBackend()), {}

    def keep(stage: str, tensors: Any) -> None:
        if stage == "denoise":
            kept.update({key: np.array(value) for key, value in tensors.items()})

    with Model(bundle, backend, parsed) as model, model.session(seed=0, steps=STEPS, **_text(model)) as session:
        g = model.manifest.geometry
        frames = min(GIVEN, g.slots)
        session.start(np.random.default_rng(0).standard_normal((frames, *g.latent_shape), dtype=np.float32))
        backend.tap = keep
        session.step()
    inputs = {spec.name: kept[spec.name] for spec in graph.inputs}
    outputs = {spec.name: kept[spec.name] for spec in graph.outputs}
    save_case(folder, f"{path.name}-{precision}", _place_graph(bundle, graph, folder), inputs, outputs)


def _place_graph(bundle: Any, graph: Any, folder: Path) -> str:
    """Copy a graph and its weights, unless the tree holds them; return the case's path of it."""
    source, in_tree = bundle.locate(graph.file), SKY / graph.file.file
    if in_tree.is_file() and sha256_of(in_tree) == graph.file.sha256:
        return f"tree:{in_tree.relative_to(ROOT)}"
    target = folder / "graphs" / bundle.path.name
    target.mkdir(parents=True, exist_ok=True)
    for artifact in (graph.file, graph.weights):
        if artifact is not None and not (target / Path(artifact.file).name).is_file():
            shutil.copyfile(bundle.locate(artifact), target / Path(artifact.file).name)
    return f"graphs/{bundle.path.name}/{source.name}"


def _text(model: Any) -> dict[str, Any]:
    g = model.manifest.geometry
    if not g.text_width:
        return {}
    return {"text": np.random.default_rng(1).standard_normal((g.text_tokens, g.text_width), dtype=np.float32)}


def describe_full_size(folder: Path, depth: int, *, small: bool = False) -> None:
    """Export XL/2 with random weights and describe them, so that they need not travel.

    Args:
        folder: Gets ``xl-<depth>``.
        depth: Blocks.
        small: Whether to make a narrow model of two blocks under that name, for a rehearsal.
    """
    from vdmrt.bundle import FP16
    from vdmrt.export import ExportOptions, export_bundle, load_config, random_model

    config = dataclasses.replace(load_config("CausalSTDiT2-XL/2", latent_size=(32, 32)), depth=depth)
    if small:
        config = dataclasses.replace(
            config, latent_size=(4, 4), depth=TINY_DEPTH, hidden_size=SMALL_WIDTH, heads=SMALL_HEADS
        )
    model = random_model(config, 0)
    with tempfile.TemporaryDirectory() as work:
        options = ExportOptions(precisions=(FP16,), prediction="v")
        bundle = export_bundle(model, Path(work) / "whole", options, name="XL/2", random_weights=True)
        parameters = {name: parameter.numpy() for name, parameter in model.named_parameters()}
        describe_weights(bundle, config, parameters, folder / f"xl-{depth}")
