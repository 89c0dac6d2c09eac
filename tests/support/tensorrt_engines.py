"""Engines for tests of the TensorRT backends, with the recorder's plans, in a copy of a bundle."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeCuda, enabled_fake_cuda
from tensorrt_recorder import Recorder, install, make_plan

from vdmrt.bundle import (
    ENGINES_FOLDER,
    FP16,
    Artifact,
    Bundle,
    Engine,
    EngineManifest,
    Graph,
    Machine,
    Plan,
    Precision,
    encode,
    find_engine,
    open_bundle,
    open_engine,
    record_trust,
    stage_graphs,
)
from vdmrt.runtime._core import Device, Memory
from vdmrt.runtime.backends.stage_source import StageSource
from vdmrt.runtime.backends.stage_sources import StageSources

__all__ = [
    "Machinery", "Tensors", "clear_outputs", "connect_driver", "copy_bundle", "machine_of", "plan_of", "source_of",
    "tensorrt_machine", "write_engine",
]  # fmt: skip


@dataclass
class Machinery:
    """A machine with a fake GPU and a TensorRT recorder, and a bundle with an fp16 engine for it."""

    cuda: FakeCuda
    recorder: Recorder
    bundle: Bundle

    @property
    def denoise(self) -> Graph:
        """The fp16 graph of a denoising step."""
        return self.bundle.manifest.graphs[FP16]["denoise"]


@dataclass
class Tensors:
    """Device memory of each tensor of a graph, and scratch; close it before the device."""

    device: Device
    graph: Graph
    scratch_nbytes: int
    memories: dict[str, Memory] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = {spec.name: spec.nbytes for spec in (*self.graph.inputs, *self.graph.outputs)}
        try:
            for name, nbytes in {**sizes, "scratch": max(self.scratch_nbytes, 1)}.items():
                self.memories[name] = self.device.allocate(nbytes)
        except BaseException:
            self.close()
            raise

    @property
    def addresses(self) -> dict[str, int]:
        """Addresses by tensor name; the scratch memory is "scratch"."""
        return {name: memory.address for name, memory in self.memories.items()}

    def close(self) -> None:
        """Free everything, even if freeing one fails."""
        with contextlib.ExitStack() as stack:
            for memory in self.memories.values():
                stack.callback(memory.close)


@contextlib.contextmanager
def tensorrt_machine(
    release: str, source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, devices: int = 1, **settings: Any
) -> Iterator[Machinery]:
    """Simulate a machine with GPUs and a TensorRT release, with an fp16 engine in a copy of a bundle.

    Args:
        release: The TensorRT release, or RTX for TensorRT for RTX.
        source: The bundle.
        folder: Folder for the copy and the user's cache.
        monkeypatch: Redirects the user's cache.
        devices: Number of GPUs.
        settings: Settings of the recorder.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    bundle = copy_bundle(source, folder / "bundle")
    with enabled_fake_cuda(devices) as cuda, install(release, gpu="vdmrt fake GPU", **settings) as recorder:
        connect_driver(recorder, cuda)
        write_engine(bundle, recorder)
        yield Machinery(cuda, recorder, bundle)


def connect_driver(recorder: Recorder, cuda: FakeCuda) -> None:
    """Give the fake driver's GPU the recorder's compute capability, and let TensorRT for RTX ask the driver."""
    cuda.compute_capability(recorder.compute_capability)
    if recorder.is_rtx:
        major, minor = recorder.driver_version
        cuda.driver_version(1000 * major + 10 * minor)
        recorder.has_context = lambda: cuda.live().current > 0
        recorder.is_capturing = lambda stream: _is_capturing(cuda, stream)


def _is_capturing(cuda: FakeCuda, stream: int) -> bool:
    status = ctypes.c_int()
    code = cuda.library.cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status))
    assert code == 0, f"a run was enqueued on a stream that the driver refuses with {code}: is its context current?"
    return status.value != 0


def clear_outputs(machinery: Machinery, context: Any, stream: int) -> None:
    """Write zeros to every output on the stream, so that a capture is not empty."""
    engine = context.engine
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_mode(name).name == "OUTPUT":
            nbytes = math.prod(engine.get_tensor_shape(name)) * engine.get_tensor_dtype(name).itemsize
            code = machinery.cuda.library.cuMemsetD8Async(
                ctypes.c_uint64(context.get_tensor_address(name)),
                ctypes.c_ubyte(0),
                ctypes.c_size_t(nbytes),
                ctypes.c_void_p(stream),
            )
            assert code == 0


def copy_bundle(source: Path, folder: Path) -> Bundle:
    """Copy a bundle into another folder, so that engines may be put beside its graphs."""
    shutil.copytree(source, folder)  # no links: onnx refuses weights that have several
    return open_bundle(folder)


def machine_of(recorder: Recorder) -> Machine:
    """Return the machine that a recorder simulates."""
    release = {"tensorrt_rtx" if recorder.is_rtx else "tensorrt": recorder.version}
    return Machine(compute_capability=recorder.compute_capability, gpu=recorder.gpu, **release)


def source_of(
    machinery: Machinery, stage: str, precision: Precision = FP16, *, engine: Engine | None = None, **lookup: Any
) -> StageSource:
    """Return a stage of the newest engine that fits, as loading a model resolves it.

    Args:
        machinery: The machine and its bundle.
        stage: The stage.
        precision: Precision of the graphs.
        engine: The engine; None finds one.
        lookup: Options of :func:`~vdmrt.bundle.find_engine`, as ``trust_plans``.
    """
    found = engine or find_engine(machinery.bundle, precision, machine_of(machinery.recorder), **lookup)
    trust = bool(lookup.get("trust_plans"))
    return StageSources(machinery.bundle, precision, found, trust_plans=trust).read(stage)


def plan_of(recorder: Recorder, graph: Graph, **document: Any) -> bytes:
    """Return a plan with the tensors of a graph."""
    sides = [[(spec.name, spec.dtype, spec.shape) for spec in specs] for specs in (graph.inputs, graph.outputs)]
    return make_plan(recorder, *sides, **document)


def write_engine(
    bundle: Bundle,
    recorder: Recorder,
    precision: str = "fp16",
    *,
    plans: dict[str, bytes] | None = None,
    trusted: bool = True,
    **manifest: Any,
) -> Engine:
    """Write an engine of a precision for the machine that the recorder simulates.

    Args:
        bundle: The bundle to write to.
        recorder: The recorder of the release.
        precision: Precision of the graphs.
        plans: Bytes by stage that replace the default plans.
        trusted: Whether it is recorded as built by this user.
        manifest: Fields of the manifest to replace. The default plans are for its ``targets``, a tuple as ("8.6",).
    """
    graphs = stage_graphs(bundle, Precision.parse(precision))
    key = str(manifest.pop("key", f"{precision}-{recorder.release}"))
    folder = bundle.path / ENGINES_FOLDER / key
    folder.mkdir(parents=True)
    written = {}
    targets = {"targets": manifest["targets"]} if "targets" in manifest else {}
    for stage, graph in graphs.items():
        data = (plans or {}).get(stage) or plan_of(recorder, graph, name=stage, **targets)
        (folder / f"{stage}.plan").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        if trusted:
            record_trust(digest)
        written[stage] = Plan(
            file=Artifact(f"{stage}.plan", digest, len(data)),
            graph_sha256=graph.file.sha256,
            weights_sha256=graph.weights.sha256 if graph.weights else None,
            inputs=graph.inputs,
            outputs=graph.outputs,
            scratch_nbytes=recorder.scratch_nbytes,
            build_seconds=1.0,
        )
    document = {
        "key": key, "backend": machine_of(recorder).backend, "precision": precision, "plans": written, "options": {},
        "machine": machine_of(recorder), **manifest,
    }  # fmt: skip
    text = json.dumps(encode(EngineManifest(**document)))
    (folder / "manifest.json").write_text(text)
    return open_engine(folder)
