"""Engines built by the recorder of each release: the calls to TensorRT, and the state after each failure."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeCuda, enabled_fake_cuda
from tensorrt_recorder import RELEASES, Call, Recorder, install

from vdmrt.bundle import (
    FP16,
    FP32,
    Bundle,
    Engine,
    find_engine,
    is_trusted,
    list_engines,
    open_bundle,
    read_plan,
    stage_graphs,
)
from vdmrt.engines import BuildOptions, build_engines
from vdmrt.engines.tensorrt.functions import ONE_KEY_TENSOR
from vdmrt.errors import BackendError, BundleError, EngineError

STAGES = ["fill", "denoise", "vae_encode", "vae_decode"]
NEW = [release for release in RELEASES if release != "8.5"]


@dataclass
class Place:
    """A copy of the tiny bundle on a machine with a fake GPU and a recorded TensorRT."""

    bundle: Bundle
    recorder: Recorder
    cuda: FakeCuda
    said: list[str]

    def build(self, options: BuildOptions | None = None, *, precision: str = "fp16", force: bool = False) -> Engine:
        return build_engines(self.bundle, precision=precision, options=options, force=force, progress=self.said.append)

    def leftovers(self) -> list[str]:
        folder = self.bundle.path / "engines"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    def flags(self) -> set[str]:
        return {call.arguments["flag"].name for call in self.recorder.named("IBuilderConfig.set_flag")}


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return open_bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def make_place(release: str, bundle: Bundle) -> Iterator[Place]:
    with enabled_fake_cuda() as cuda, install(release, gpu="vdmrt fake GPU", compute_capability="9.0") as recorder:
        yield Place(bundle, recorder, cuda, [])


@pytest.fixture(params=RELEASES)
def place(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Place]:
    yield from make_place(request.param, bundle)


@pytest.fixture(params=NEW)
def new_place(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Place]:
    yield from make_place(request.param, bundle)


@pytest.fixture
def old_place(bundle: Bundle) -> Iterator[Place]:
    yield from make_place("8.5", bundle)


@pytest.fixture
def newest(bundle: Bundle) -> Iterator[Place]:
    yield from make_place("11.4", bundle)


def test_every_release_builds_every_stage(place: Place) -> None:
    engine = place.build()

    manifest = engine.manifest
    assert list(manifest.plans) == STAGES
    assert manifest.machine.tensorrt == place.recorder.version
    assert (manifest.machine.gpu, manifest.machine.compute_capability) == ("vdmrt fake GPU", "9.0")
    assert place.leftovers() == [engine.path.name] == [manifest.key]
    assert find_engine(place.bundle, FP16, manifest.machine) == engine
    for stage, graph in stage_graphs(place.bundle, FP16).items():
        plan = engine.plan(stage)
        assert (plan.graph_sha256, plan.inputs, plan.outputs) == (graph.file.sha256, graph.inputs, graph.outputs)
        assert plan.scratch_nbytes == place.recorder.scratch_nbytes
        assert is_trusted(plan.file.sha256)
        assert read_plan(engine, stage)


def test_nothing_of_tensorrt_outlives_the_build(place: Place) -> None:
    place.build()

    for owner in ("Builder", "INetworkDefinition", "OnnxParser", "IBuilderConfig", "ICudaEngine", "Runtime"):
        assert place.recorder.alive(owner) == 0


def test_products_run_in_the_types_of_the_graph(place: Place) -> None:
    engine = place.build()

    audit = engine.plan("denoise").audit
    assert audit is not None
    assert audit.products == {"fp16": 28, "fp32": 6}


def test_the_manifest_records_the_form_of_each_function(place: Place) -> None:
    plan = place.build().plan("denoise")

    assert plan.forms is not None
    assert plan.forms["CachedAttention"] == {ONE_KEY_TENSOR: 2}
    assert f"denoise: 2 CachedAttention as {ONE_KEY_TENSOR}" in place.said


def test_new_releases_are_strongly_typed_and_set_no_precision(new_place: Place) -> None:
    new_place.build()

    recorder = new_place.recorder
    flag = int(recorder.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert {call.arguments["flags"] for call in recorder.named("create_network")} == {1 << flag}
    assert new_place.flags() == set()
    assert recorder.named("precision=") == recorder.named("set_output_type") == []
    assert {call.arguments["flag"].name for call in recorder.named("clear_flag")} == {"TF32"}


def test_constraints_keep_float32_layers_in_the_old_release(old_place: Place) -> None:
    old_place.build()

    recorder = old_place.recorder
    assert {call.arguments["flags"] for call in recorder.named("create_network")} == {1}
    assert old_place.flags() == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
    asked = {call.arguments["value"].name for call in recorder.named("ILayer.precision=")}
    assert asked == {"FLOAT", "HALF"}


def test_integers_and_casts_are_not_constrained_in_the_old_release(old_place: Place) -> None:
    kinds: list[str] = []

    def look(call: Call) -> None:
        if call.name == "precision=":
            layer: Any = recorder._alive[call.subject]
            kinds.append(layer._node.operator)
            assert {side.dtype for side in layer._node.outputs} <= {"float16", "float32"}
            wanted = {"float16": "HALF", "float32": "FLOAT"}[layer._node.outputs[0].dtype]
            assert call.arguments["value"].name == wanted

    recorder = old_place.recorder
    recorder.before = look
    old_place.build()

    assert {"Gemm", "MatMul", "Softmax", "ReduceMean", "Sqrt", "Constant"} <= set(kinds)
    assert not {"Cast", "Min"} & set(kinds)


def test_every_layer_that_writes_float32_is_constrained_in_the_old_release(old_place: Place) -> None:
    free: list[str] = []
    held: set[str] = set()

    def look(call: Call) -> None:
        if call.name != "build_serialized_network":
            return
        network: Any = old_place.recorder._alive[call.arguments["network"]]
        float32 = old_place.recorder.module.DataType.FLOAT
        for layer in map(network.get_layer, range(network.num_layers)):
            node = layer._node
            for index, side in enumerate(node.outputs):
                if side.dtype != "float32":
                    continue
                typed = layer.output_type_is_set(index) and layer.get_output_type(index) == float32
                # A cast does not compute; its output type is set.
                computed = node.operator == "Cast" or (layer.precision_is_set and layer.precision == float32)
                (held.add(node.name) if typed and computed else free.append(node.name))

    old_place.recorder.before = look
    old_place.build()

    assert free == []
    assert {"t_embedder.frequencies", "x_embedder.proj.bias"} <= held


def test_type_constraints_affect_the_key(old_place: Place) -> None:
    engine = old_place.build()

    assert engine.manifest.options["constraints"] == "2"


def test_the_old_release_loads_neither_cublas_nor_cudnn(old_place: Place) -> None:
    old_place.build()

    recorder = old_place.recorder
    source = recorder.module.TacticSource
    wanted = 1 << int(source.EDGE_MASK_CONVOLUTIONS) | 1 << int(source.JIT_CONVOLUTIONS)
    assert {call.arguments["tactic_sources"] for call in recorder.named("set_tactic_sources")} == {wanted}
    preview = {
        call.arguments["feature"].name: call.arguments["enable"] for call in recorder.named("set_preview_feature")
    }
    assert preview == {"DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805": True, "FASTER_DYNAMIC_SHAPES_0805": True}


def test_cublas_and_cudnn_are_used_on_request(old_place: Place) -> None:
    old_place.build(BuildOptions(external_tactics=True))

    (sources,) = {call.arguments["tactic_sources"] for call in old_place.recorder.named("set_tactic_sources")}
    assert sources == 0b11111


def test_float32_builds_without_the_flag_for_half(old_place: Place) -> None:
    engine = old_place.build(BuildOptions(tf32=True), precision="fp32")

    assert "FP16" not in old_place.flags()
    assert "TF32" in old_place.flags()
    assert engine.manifest.precision == FP32


def test_inputs_and_outputs_have_linear_format(place: Place) -> None:
    place.build()

    formats = place.recorder.named("ITensor.allowed_formats=")
    sides = sum(len(graph.inputs) + len(graph.outputs) for graph in stage_graphs(place.bundle, FP16).values())
    assert len(formats) == sides
    assert {call.arguments["value"] for call in formats} == {1 << int(place.recorder.module.TensorFormat.LINEAR)}


def test_options_reach_the_builder(newest: Place) -> None:
    engine = newest.build(
        BuildOptions(
            optimization_level=4,
            workspace_nbytes=1 << 20,
            hardware_compatibility="same_compute_capability",
            version_compatible=True,
            refit=True,
            weight_streaming_fill=True,
        )
    )

    recorder = newest.recorder
    assert newest.flags() == {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "REFIT", "WEIGHT_STREAMING"}
    assert len([call for call in recorder.named("set_flag") if call.arguments["flag"].name == "WEIGHT_STREAMING"]) == 1
    assert {call.arguments["value"] for call in recorder.named("builder_optimization_level=")} == {4}
    assert {call.arguments["pool_size"] for call in recorder.named("set_memory_pool_limit")} == {1 << 20}
    assert {call.arguments["value"].name for call in recorder.named("hardware_compatibility_level=")} == {
        "SAME_COMPUTE_CAPABILITY"
    }
    assert engine.manifest.hardware_compatibility == "same_compute_capability"
    assert engine.manifest.version_compatible
    assert engine.manifest.options["optimization_level"] == "4"


def test_stripped_plans_are_marked_in_the_manifest(newest: Place) -> None:
    engine = newest.build(BuildOptions(strip_weights=True))

    assert "STRIP_PLAN" in newest.flags()
    assert engine.manifest.stripped


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            BuildOptions(optimization_level=3),
            r"--builder-optimization-level needs TensorRT 8\.6 or newer, found 8\.5\.3\.1",
        ),
        (
            BuildOptions(hardware_compatibility="ampere_plus"),
            r"--hardware-compatibility ampere_plus needs TensorRT 8",
        ),
        (
            BuildOptions(hardware_compatibility="same_compute_capability"),
            r"same_compute_capability needs TensorRT 10",
        ),
        (BuildOptions(version_compatible=True), r"--version-compatible needs TensorRT 8\.6"),
        (BuildOptions(strip_weights=True), r"--strip-weights needs TensorRT 10\.0"),
        (BuildOptions(weight_streaming_fill=True), r"--weight-streaming-fill needs TensorRT 10\.0"),
    ],
)
def test_an_option_that_the_release_lacks_is_refused(old_place: Place, options: BuildOptions, sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence):
        old_place.build(options)
    assert old_place.leftovers() == []


def test_an_option_that_was_removed_is_refused(newest: Place) -> None:
    with pytest.raises(EngineError, match="--external-tactics needs TensorRT 10 or older"):
        newest.build(BuildOptions(external_tactics=True))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"optimization_level": 6}, "level must be 0 <= level <= 5, got 6"),
        ({"workspace_nbytes": 0}, "workspace must be at least 1 byte, got 0"),
    ],
)
def test_options_out_of_range_are_misuse(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BuildOptions(**options)  # type: ignore[arg-type]


def test_an_existing_engine_is_reused(place: Place) -> None:
    first = place.build()
    built = len(place.recorder.named("build_serialized_network"))

    assert place.build() == first
    assert len(place.recorder.named("build_serialized_network")) == built == 4


def test_force_builds_again_and_leaves_one_engine(place: Place) -> None:
    first = place.build()

    assert place.build(force=True).path == first.path
    assert len(place.recorder.named("build_serialized_network")) == 8
    assert place.leftovers() == [first.path.name]


def test_building_again_from_the_same_timings_gives_the_same_engine(place: Place, tmp_path: Path) -> None:
    options = BuildOptions(timing_cache=tmp_path / "pinned")
    place.build(options)  # fills the timing cache
    asked, engines = [], []
    for _ in range(2):
        place.recorder.calls.clear()
        engines.append(place.build(options, force=True))
        asked.append([(call.name, call.arguments) for call in place.recorder.calls if "config" not in call.arguments])

    first, second = engines
    assert place.said[-1] == "built again: every plan is the same, byte for byte"
    assert second.manifest.key == first.manifest.key
    assert {stage: (plan.file, plan.audit) for stage, plan in second.manifest.plans.items()} == {
        stage: (plan.file, plan.audit) for stage, plan in first.manifest.plans.items()
    }
    assert [name for name, _ in asked[0]] == [name for name, _ in asked[1]]


def test_plans_that_differ_after_a_rebuild_are_named(newest: Place) -> None:
    newest.build()
    newest.recorder.scratch_nbytes *= 2

    newest.build(force=True)

    assert re.match(r"built again: fill, denoise, vae_encode, vae_decode differ from the older ones", newest.said[-1])


def test_an_engine_that_lost_a_plan_is_built_again(newest: Place) -> None:
    first = newest.build()
    (first.path / "fill.plan").unlink()

    engine = newest.build()

    assert read_plan(engine, "fill")
    assert len(newest.recorder.named("build_serialized_network")) == 8


def test_an_engine_with_a_damaged_manifest_is_built_again(newest: Place) -> None:
    first = newest.build()
    (first.path / "manifest.json").write_text("{")

    assert newest.build().manifest.key == first.manifest.key


def test_a_foreign_engine_is_built_again(newest: Place, tmp_path: Path) -> None:
    newest.build()
    shutil.rmtree(tmp_path / "cache")

    newest.build()

    assert len(newest.recorder.named("build_serialized_network")) == 8


def test_other_options_make_another_engine(newest: Place) -> None:
    first, second = newest.build(), newest.build(BuildOptions(refit=True))

    assert first.path != second.path
    assert len(list_engines(newest.bundle)) == 2


def test_timings_are_reused_by_later_builds(place: Place, tmp_path: Path) -> None:
    engine = place.build()
    kept = list((tmp_path / "cache" / "vdmrt" / "timing").iterdir())
    place.build(force=True)

    given = [call.arguments["serialized_timing_cache"] for call in place.recorder.named("create_timing_cache")]
    assert given[0] == b""
    assert all(given[1:])
    assert [path.suffix for path in kept] == [".cache"]
    assert (engine.path / "timing.cache").read_bytes() == kept[0].read_bytes() == given[4]


def test_a_timing_cache_of_another_gpu_is_ignored(newest: Place, tmp_path: Path) -> None:
    path = tmp_path / "timings"
    options = BuildOptions(timing_cache=path)
    newest.build(options)
    newest.recorder.compute_capability = "8.9"
    newest.build(options, force=True)

    assert any("timing cache is not used" in line for line in newest.said)


def test_an_invalid_timing_cache_is_ignored(newest: Place, tmp_path: Path) -> None:
    path = tmp_path / "timings"
    path.write_bytes(b"nonsense")

    newest.build(BuildOptions(timing_cache=path))

    assert any("timing cache is not used" in line for line in newest.said)
    assert path.read_bytes() != b"nonsense"


@pytest.mark.parametrize("release", ["8.5", "10.3"])
def test_an_operator_that_the_parser_lacks_is_named_with_its_node(bundle: Bundle, release: str) -> None:
    for place in make_place(release, bundle):
        place.recorder.unsupported = {"Softmax"}

        with pytest.raises(BackendError, match=r"refuses it: node 'weights\w*' \(Softmax\): No importer"):
            place.build()
        assert place.leftovers() == []


def test_the_error_for_a_small_workspace_contains_the_builders_log(place: Place) -> None:
    place.recorder.workspace_nbytes = 1 << 30

    with pytest.raises(BackendError, match=r"built no plan: .*Requires 1073741824 bytes.*raise --workspace"):
        place.build(BuildOptions(workspace_nbytes=1 << 20))
    assert place.leftovers() == []


def test_the_error_of_a_failed_build_contains_the_builders_log(place: Place) -> None:
    place.recorder.fail("build_serialized_network", at=2, log="Error Code 2: OutOfMemory")

    with pytest.raises(BackendError, match=r"denoise: TensorRT \S+ built no plan: Error Code 2: OutOfMemory"):
        place.build()
    assert place.leftovers() == []


def test_a_plan_that_does_not_load_is_not_kept(place: Place) -> None:
    place.recorder.fail("deserialize_cuda_engine", log="Error Code 1: Myelin")

    with pytest.raises(BackendError, match="does not load the plan that it built: Error Code 1: Myelin"):
        place.build()
    assert place.leftovers() == []


def test_an_fp16_engine_with_products_in_float32_is_refused(old_place: Place) -> None:
    old_place.recorder.layer_type = lambda operator, dtype: "float32" if operator in ("MatMul", "Gemm") else dtype

    with pytest.raises(EngineError, match=r"fill: fp16 was requested, but \d+ of \d+ matrix products run in float32"):
        old_place.build()
    assert old_place.leftovers() == []


def test_hidden_layers_are_counted_without_an_error(old_place: Place) -> None:
    old_place.recorder.fuse = True

    audit = old_place.build().plan("denoise").audit

    assert audit is not None
    assert audit.unknown_products == 1
    assert audit.products == {}


def test_a_missing_driver_is_reported_before_tensorrt_is_used(place: Place) -> None:
    place.cuda.disable()

    with pytest.raises(BackendError, match="needs an NVIDIA GPU: the driver sees no GPU; take --backend onnxruntime"):
        place.build()
    assert place.recorder.calls == []


def test_a_missing_tensorrt_says_what_to_install(bundle: Bundle) -> None:
    with enabled_fake_cuda() as cuda:
        for version, package in ((12040, "tensorrt-cu12"), (13000, "tensorrt-cu13")):
            cuda.driver_version(version)

            with pytest.raises(BackendError, match=rf"TensorRT is not installed.*; this .*pip install {package}"):
                build_engines(bundle)


def test_engines_can_be_built_for_another_gpu_than_the_first(new_place: Place) -> None:
    new_place.cuda.enable(devices=2)
    new_place.cuda.rename(1, "vdmrt other GPU")
    current: set[int] = set()

    def look(call: Call) -> None:
        if call.name in ("build_serialized_network", "deserialize_cuda_engine"):
            device = ctypes.c_int(-1)
            assert new_place.cuda.library.cuCtxGetDevice(ctypes.byref(device)) == 0
            current.add(device.value)

    new_place.recorder.before = look
    engines = [
        build_engines(new_place.bundle, precision="fp16", gpu=index, progress=new_place.said.append) for index in (0, 1)
    ]

    assert current == {0, 1}
    assert [engine.manifest.machine.gpu for engine in engines] == ["vdmrt fake GPU", "vdmrt other GPU"]
    assert "-vdmrt-other-gpu-" in engines[1].manifest.key
    assert new_place.cuda.live().contexts == new_place.cuda.live().current == 0


def test_an_engine_that_cannot_fit_is_refused_with_the_figures(bundle: Bundle) -> None:
    with enabled_fake_cuda(memory_nbytes=1 << 18), install("11.4", gpu="vdmrt fake GPU") as recorder:
        with pytest.raises(
            EngineError, match=r"does not fit: weights 3\d\d KiB, KV cache 21 KiB, .* than the GPU's 256 KiB"
        ):
            build_engines(bundle)
        assert recorder.named("Builder.__init__") == []
        assert build_engines(bundle, force=True).manifest.precision == FP16


def test_an_altered_graph_is_not_built(place: Place) -> None:
    path = place.bundle.path / "graphs" / "weights.fp16.bin"
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(bytes(data))

    with pytest.raises(BundleError, match="the file was altered: export it again"):
        place.build()
    assert place.recorder.named("Builder.__init__") == []


def test_a_full_disk_leaves_nothing(newest: Place) -> None:
    def progress(line: str) -> None:
        if line.startswith("denoise: built"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(
        EngineError, match=r"cannot be written: the disk is full \(No space left on device\); nothing was left"
    ):
        build_engines(newest.bundle, progress=progress)
    assert newest.leftovers() == []


def test_ctrl_c_stops_the_builder_and_leaves_nothing(place: Place) -> None:
    place.recorder.build_seconds, place.recorder.build_steps = 1.0, 20
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    started = time.monotonic()
    timer.start()

    with pytest.raises(KeyboardInterrupt):
        place.build()

    assert place.leftovers() == []
    assert list_engines(place.bundle) == ()
    if place.recorder.major >= 10:  # a progress monitor stops it at the next step
        assert time.monotonic() - started < 0.9
    assert any("stopping" in line for line in place.said)
    assert place.recorder.alive("Builder") == 0


def test_a_bundle_without_that_precision_is_refused(newest: Place) -> None:
    with pytest.raises(BundleError, match="has fp32, fp16, not 'int8'"):
        newest.build(precision="int8")


def test_kernels_that_were_not_tried_are_explained(newest: Place) -> None:
    warning = "Skipping tactic 0x3 due to insufficient memory on requested size of 4294967296 detected for tactic"

    def warn(call: Call) -> None:
        if call.name == "build_serialized_network" and newest.recorder.named("build_serialized_network")[0] == call:
            newest.recorder.say(newest.recorder._alive[call.subject], "WARNING", warning)

    newest.recorder.before = warn
    newest.build()

    (line,) = [line for line in newest.said if "skipped" in line]
    assert line.startswith("fill: TensorRT skipped 1 kernels for lack of GPU memory")


def test_the_inspectors_output_is_saved(place: Place) -> None:
    engine = place.build()

    layers = json.loads((engine.path / "layers.json").read_text())
    assert list(layers) == STAGES
    assert layers["denoise"]["Layers"]


def test_the_cache_copies_of_the_plan_are_listed(place: Place) -> None:
    audit = place.build().plan("denoise").audit

    assert audit is not None
    assert {copy.tensor for copy in audit.cache_copies} <= {f"past_{part}.{layer}" for part in "kv" for layer in (0, 1)}
    assert sum(copy.nbytes for copy in audit.cache_copies) > 0


def test_a_plan_with_unreadable_inspector_output_is_kept(place: Place) -> None:
    place.recorder.fail("get_engine_information", at=0, returns="no JSON")

    engine = place.build()

    assert engine.plan("denoise").audit is None
    assert any("the precisions of its layers are unknown" in line for line in place.said)
