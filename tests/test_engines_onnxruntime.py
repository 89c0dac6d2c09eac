"""ONNX Runtime engines: graphs optimized offline, with unchanged weights left in the bundle."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import threading
from pathlib import Path

import onnx
import pytest
from tiny import TINY

from vdmrt.bundle import (
    FP32,
    Bundle,
    Engine,
    Graph,
    Precision,
    find_engine,
    list_engines,
    open_bundle,
    sha256_of,
    stage_graphs,
)
from vdmrt.engines import ModelOptions, build_models
from vdmrt.engines.onnxruntime.models import check_version
from vdmrt.errors import BackendError, BundleError

STAGES = ["fill", "denoise", "vae_encode", "vae_decode"]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return open_bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def build(bundle: Bundle, said: list[str] | None = None, *, precision: str = "fp32", force: bool = False) -> Engine:
    lines: list[str] = [] if said is None else said
    return build_models(bundle, precision=precision, force=force, progress=lines.append)


def weights_of(engine: Engine, stage: str) -> list[tuple[str, int, int]]:
    """Return file, offset and length of each weight outside a stage's graph."""
    model = onnx.load(str(engine.path / f"{stage}.onnx"), load_external_data=False)
    found = [{entry.key: entry.value for entry in tensor.external_data} for tensor in model.graph.initializer]
    return [(entry["location"], int(entry["offset"]), int(entry["length"])) for entry in found if entry]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_stage_is_built_and_found(bundle: Bundle, precision: str) -> None:
    engine = build(bundle, precision=precision)

    manifest = engine.manifest
    assert list(manifest.plans) == STAGES
    assert (manifest.backend, str(manifest.precision)) == ("onnxruntime", precision)
    assert manifest.machine.provider == "CPUExecutionProvider"
    assert [path.name for path in (bundle.path / "engines").iterdir()] == [manifest.key]
    files = {part.file for plan in manifest.plans.values() for part in (plan.file, plan.weights) if part}
    assert {path.name for path in engine.path.iterdir()} == files | {"manifest.json"}
    assert find_engine(bundle, Precision.parse(precision), manifest.machine) == engine
    for stage, graph in stage_graphs(bundle, Precision.parse(precision)).items():
        assert engine.plan(stage).graph_sha256 == graph.file.sha256


def test_the_manifest_records_the_form_of_each_function(bundle: Bundle) -> None:
    said = list[str]()

    forms = build(bundle, said).plan("denoise").forms

    assert forms is not None and forms["Attention"] == {"com.microsoft.Attention": TINY.depth}
    assert f"denoise: {TINY.depth} Attention as com.microsoft.Attention" in said


def test_the_key_names_backend_provider_and_precision(bundle: Bundle) -> None:
    engine = build(bundle)

    version = engine.manifest.machine.onnxruntime
    assert engine.manifest.key.startswith(f"ort{version}-cpu-fp32-")
    assert build_models(bundle, options=ModelOptions(level="extended")).manifest.key != engine.manifest.key
    assert engine.manifest.options["level"] == "all"


def test_only_the_weights_of_rewritten_attentions_leave_the_bundle(bundle: Bundle) -> None:
    engine = build(bundle)

    shared = bundle.manifest.graphs[FP32]["denoise"].weights
    assert shared is not None
    theirs = sum(length for file, _, length in weights_of(engine, "denoise") if file == shared.file)
    packed = TINY.depth * 3 * TINY.hidden_size**2 * 4
    assert theirs > 0.9 * (shared.nbytes - packed)
    assert packed <= (engine.path / "weights.bin").stat().st_size < 1.1 * packed


def test_changed_weights_are_stored_in_the_engine_once(bundle: Bundle) -> None:
    engine = build(bundle, precision="fp16")

    own = f"engines/{engine.manifest.key}/weights.bin"
    used = {weight for stage in STAGES for weight in weights_of(engine, stage) if weight[0] == own}
    content = (engine.path / "weights.bin").read_bytes()
    digests = [hashlib.sha256(content[offset : offset + length]).digest() for _, offset, length in used]
    assert len(set(digests)) == len(digests) > 0
    assert all(offset % 64 == 0 for _, offset, _ in used)
    assert max(offset + length for _, offset, length in used) == len(content)


def test_every_weight_outside_a_graph_is_inside_its_file(bundle: Bundle) -> None:
    engine = build(bundle, precision="fp16")

    for stage in STAGES:
        for file, offset, length in weights_of(engine, stage):
            assert offset + length <= (bundle.path / file).stat().st_size


def test_building_again_gives_the_same_bytes(bundle: Bundle) -> None:
    engine, again = build(bundle, precision="fp16"), build(bundle, precision="fp16", force=True)

    assert again.manifest.key == engine.manifest.key
    assert {stage: (plan.file, plan.weights) for stage, plan in again.manifest.plans.items()} == {
        stage: (plan.file, plan.weights) for stage, plan in engine.manifest.plans.items()
    }


def test_an_existing_engine_is_reused(bundle: Bundle) -> None:
    engine, said = build(bundle), list[str]()

    assert build(bundle, said) == engine
    assert said == []


@pytest.mark.parametrize("file", ["denoise.onnx", "weights.bin"])
def test_a_truncated_engine_is_built_again(bundle: Bundle, file: str) -> None:
    engine, said = build(bundle, precision="fp16"), list[str]()
    os.truncate(engine.path / file, 10)

    build(bundle, said, precision="fp16")

    assert any(line.startswith("denoise: optimized by ONNX Runtime") for line in said)
    assert (engine.path / file).stat().st_size > 10


def test_an_altered_graph_is_not_built(bundle: Bundle) -> None:
    path = bundle.path / "graphs" / "weights.fp32.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))

    with pytest.raises(BundleError, match="the file was altered: export it again"):
        build(bundle)
    assert list_engines(bundle) == ()


def test_a_graph_that_onnx_runtime_refuses_is_named(bundle: Bundle) -> None:
    graphs = bundle.manifest.graphs[FP32]
    path = bundle.locate(graphs["denoise"].file)
    model = onnx.load(str(path), load_external_data=False)
    model.graph.node[0].op_type = "Unheard"
    onnx.save(model, str(path))

    with pytest.raises(BackendError, match=r"denoise: ONNX Runtime \S+ does not optimize it: .*Unheard"):
        build(with_denoise(bundle, recorded(bundle, graphs["denoise"])))
    assert list((bundle.path / "engines").iterdir()) == []


def recorded(bundle: Bundle, graph: Graph) -> Graph:
    """Return the graph's entry for the present contents of its file."""
    path = bundle.path / graph.file.file
    file = dataclasses.replace(graph.file, sha256=sha256_of(path), nbytes=path.stat().st_size)
    return dataclasses.replace(graph, file=file)


def with_denoise(bundle: Bundle, graph: Graph) -> Bundle:
    graphs = {FP32: {**bundle.manifest.graphs[FP32], "denoise": graph}}
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, graphs=graphs))


def test_a_bundle_without_that_precision_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="has fp32, fp16, not 'int8'"):
        build(bundle, precision="int8")


def test_a_release_that_is_too_old_is_refused() -> None:
    with pytest.raises(BackendError, match=r"engines need ONNX Runtime 1\.21 or newer, found 1\.20\.1; pip install"):
        check_version("1.20.1")
    check_version("1.32.0")


def test_ctrl_c_leaves_nothing(bundle: Bundle) -> None:
    def progress(line: str) -> None:
        if line.startswith("fill: optimized"):
            threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        for _ in range(50):  # it may arrive just after the build
            build_models(bundle, force=True, progress=progress)
    assert [path.name for path in (bundle.path / "engines").iterdir() if path.name.startswith(".")] == []
