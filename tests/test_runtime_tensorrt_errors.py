"""What TensorRT's backend refuses, and what it says then: both sides, and what to do."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeCuda, enabled_fake_cuda
from tensorrt_engines import Machinery, Tensors, machine_of, plan_of, source_of, tensorrt_machine, write_engine
from tensorrt_recorder import RELEASES

from vdmrt.bundle import FP16, FP32, Role, TensorSpec, list_engines, record_trust
from vdmrt.errors import BackendError, DeviceError, EngineError, TensorMismatchError
from vdmrt.runtime.backends.stage_sources import StageSources
from vdmrt.runtime.backends.tensorrt.backend import TensorRtBackend


@pytest.fixture(params=RELEASES)
def machinery(
    request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machinery]:
    with tensorrt_machine(request.param, tiny_bundle, tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    with enabled_fake_cuda() as fake:
        yield fake


@pytest.fixture
def backend(machinery: Machinery) -> Iterator[TensorRtBackend]:
    made = TensorRtBackend()
    yield made
    made.close()


def anywhere(machinery: Machinery) -> dict[str, int]:
    """Return an aligned address for each tensor of a denoising step, of no memory."""
    return {spec.name: 0x10000 for spec in (*machinery.denoise.inputs, *machinery.denoise.outputs)}


def refuse(machinery: Machinery, backend: TensorRtBackend, sentence: str, kind: type[Exception] = EngineError) -> None:
    """Check that the denoise plan is refused with a sentence before any memory of the device is allocated."""
    with pytest.raises(kind, match=sentence):
        backend.load(source_of(machinery, "denoise"))
    assert machinery.cuda.counts().get("cuMemAlloc_v2", 0) == 0
    assert machinery.recorder.alive("ICudaEngine") == 0


def rebuild(machinery: Machinery, plans: dict[str, bytes] | None = None, **manifest: Any) -> None:
    """Put another engine in the place of the one that is there."""
    folder = machinery.bundle.path / "engines"
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    write_engine(machinery.bundle, machinery.recorder, plans=plans, **manifest)


def test_no_driver_is_said_before_tensorrt_is_imported() -> None:
    fake = FakeCuda()
    fake.disable()

    with pytest.raises(BackendError, match="needs an NVIDIA GPU: the driver sees no GPU; take --backend onnxruntime"):
        TensorRtBackend()


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        (13010, "runs CUDA 13.1: pip install tensorrt-cu13"),
        (14000, "runs CUDA 14.0: pip install tensorrt-cu13"),
        (12040, "runs CUDA 12.4: pip install tensorrt-cu12"),
        (11080, "runs CUDA 11.8: pip install tensorrt-cu11"),
        (10020, "runs CUDA 10.2, which no release supports any more: install a newer driver first"),
    ],
)
def test_a_missing_tensorrt_is_named_for_the_drivers_cuda(
    cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, version: int, advice: str
) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    cuda.driver_version(version)

    with pytest.raises(BackendError, match=f"TensorRT is not installed; this driver {advice}"):
        TensorRtBackend()


def test_a_tensorrt_that_does_not_load_is_quoted(
    cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)

    with pytest.raises(BackendError, match=r"does not import: libnvinfer.so.10: cannot open .* tensorrt-cu12"):
        TensorRtBackend()


def test_a_release_that_is_too_old_is_refused(machinery: Machinery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machinery.recorder.module, "__version__", "8.4.3.1")

    with pytest.raises(BackendError, match=r"wanted TensorRT 8.5 or newer, found 8.4.3.1; .* pip install"):
        TensorRtBackend()


def test_a_gpu_that_is_not_there_is_refused(machinery: Machinery) -> None:
    with pytest.raises(BackendError, match=r"wanted GPU 3, the driver sees 1 \(0: vdmrt fake GPU\)"):
        TensorRtBackend(device_index=3)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        TensorRtBackend(device_index=-1)
    assert machinery.recorder.calls == []


def test_a_runtime_that_does_not_start_is_said(machinery: Machinery) -> None:
    machinery.recorder.driver = False
    if machinery.recorder.major >= 11:
        return  # there the process would end; the driver was asked first

    with pytest.raises(BackendError, match=r"does not start on vdmrt fake GPU"):
        TensorRtBackend()


def test_a_bundle_without_engines_says_how_to_build_one(machinery: Machinery) -> None:
    with pytest.raises(EngineError, match=r"has no fp32 engine; build one with vdmrt build .* --precision fp32"):
        source_of(machinery, "denoise", FP32)


def test_an_engine_of_other_graphs_is_refused(machinery: Machinery) -> None:
    (given,) = list_engines(machinery.bundle)

    with pytest.raises(ValueError, match="wanted the graph of 'denoise' that it was built from, got another"):
        source_of(machinery, "denoise", FP32, engine=given)


def test_a_graph_that_was_not_built_is_refused(machinery: Machinery, backend: TensorRtBackend) -> None:
    with pytest.raises(BackendError, match=r"denoise.fp16.onnx: TensorRT runs plans, and this is a graph; build an en"):
        backend.load(StageSources(machinery.bundle, FP16).read("denoise"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tensorrt": "9.3.0"}, r"built with TensorRT 9.3.0, here is {version}"),
        ({"compute_capability": "8.6"}, r"built for compute capability 8.6, here is 9.0"),
        ({"gpu": "NVIDIA H200"}, r"built on NVIDIA H200, here is vdmrt fake GPU"),
    ],
)
def test_a_plan_for_another_machine_is_refused_with_both_sides(
    machinery: Machinery, backend: TensorRtBackend, changes: dict[str, str], sentence: str
) -> None:
    rebuild(machinery, machine=dataclasses.replace(machine_of(machinery.recorder), **changes))

    said = sentence.format(version=re.escape(machinery.recorder.version))
    refuse(machinery, backend, f"build one with vdmrt build .* --precision fp16.*{said}")
    assert machinery.recorder.named("deserialize_cuda_engine") == []


def test_a_plan_of_an_altered_graph_is_refused(machinery: Machinery, backend: TensorRtBackend) -> None:
    graph = machinery.denoise
    altered = dataclasses.replace(graph, file=dataclasses.replace(graph.file, sha256="0" * 64))
    stages = {**machinery.bundle.manifest.graphs[FP16], "denoise": altered}
    manifest = dataclasses.replace(machinery.bundle.manifest, graphs={FP16: stages})
    machinery.bundle = dataclasses.replace(machinery.bundle, manifest=manifest)

    refuse(machinery, backend, "'denoise' was built from a graph of SHA-256 .*, the bundle's is 0000000000000000")


def test_a_truncated_plan_is_refused(machinery: Machinery, backend: TensorRtBackend) -> None:
    (path,) = machinery.bundle.path.glob("engines/*/denoise.plan")
    path.write_bytes(path.read_bytes()[:-7])

    refuse(machinery, backend, r"denoise.plan: wanted \d+ bytes, found \d+; the plan is truncated")


def test_an_altered_plan_is_refused(machinery: Machinery, backend: TensorRtBackend) -> None:
    (path,) = machinery.bundle.path.glob("engines/*/denoise.plan")
    path.write_bytes(b"?" + path.read_bytes()[1:])

    refuse(machinery, backend, "denoise.plan: wanted SHA-256 .*, found .*; the plan was altered")


def test_a_foreign_plan_is_loaded_with_trust_only(machinery: Machinery, backend: TensorRtBackend) -> None:
    foreign = plan_of(machinery.recorder, machinery.denoise, name="not built here")
    rebuild(machinery, {"denoise": foreign}, trusted=False)

    refuse(machinery, backend, "its plans are native code .*: --trust-plans loads them")
    assert backend.load(source_of(machinery, "denoise", trust_plans=True)).capturable


def test_tensorrts_own_refusal_is_quoted(machinery: Machinery, backend: TensorRtBackend) -> None:
    rebuild(machinery, {"denoise": b"no plan at all"})

    version = re.escape(machinery.recorder.version)
    refuse(machinery, backend, f"denoise.plan: TensorRT {version} refuses the plan: .*magicTag", BackendError)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dtype": "float16"}, "wanted 'latent' as input float32 .* found input float16"),
        (
            {"shape": (1, 2)},
            r"wanted 'latent' as input float32 .* found input float32 \[1, 2\]; build",
        ),
        ({"name": "other"}, "model.json has 'latent' and the plan does not; build the engine again"),
    ],
)
def test_tensors_must_be_the_tables(
    machinery: Machinery, backend: TensorRtBackend, change: dict[str, Any], sentence: str
) -> None:
    graph = machinery.denoise
    inputs = tuple(dataclasses.replace(spec, **change) if spec.name == "latent" else spec for spec in graph.inputs)
    plan = plan_of(machinery.recorder, dataclasses.replace(graph, inputs=inputs))
    rebuild(machinery, {"denoise": plan})

    refuse(machinery, backend, sentence, BackendError)


def test_tensors_beside_the_table_are_refused(machinery: Machinery, backend: TensorRtBackend) -> None:
    graph = machinery.denoise
    more = dataclasses.replace(graph, outputs=(*graph.outputs, TensorSpec("surplus", "float32", (1,), Role.HISTORY)))
    rebuild(machinery, {"denoise": plan_of(machinery.recorder, more)})

    refuse(machinery, backend, "the plan has 'surplus' and model.json does not", BackendError)


def test_an_input_that_became_an_output_is_refused(machinery: Machinery, backend: TensorRtBackend) -> None:
    graph = machinery.denoise
    turned = dataclasses.replace(graph, inputs=graph.inputs[1:], outputs=(*graph.outputs, graph.inputs[0]))
    rebuild(machinery, {"denoise": plan_of(machinery.recorder, turned)})

    refuse(machinery, backend, f"wanted '{graph.inputs[0].name}' as input .* found output", BackendError)


def test_stripped_plans_want_a_release_that_can_refit(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tensorrt_machine("8.5", tiny_bundle, tmp_path, monkeypatch) as machinery:
        rebuild(machinery, stripped=True)
        backend = TensorRtBackend()

        refuse(machinery, backend, r"holds no weights, and TensorRT 8.5.3.1 cannot put them in", BackendError)
        backend.close()


def test_a_refit_that_fails_is_said(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tensorrt_machine("11.4", tiny_bundle, tmp_path, monkeypatch) as machinery:
        rebuild(machinery, stripped=True)
        machinery.recorder.fail("refit_cuda_engine", returns=False, log="3 weights are missing")
        backend = TensorRtBackend()

        refuse(machinery, backend, "the weights of .* do not fit it: 3 weights are missing", BackendError)
        backend.close()


def test_every_tensor_wants_an_aligned_address(machinery: Machinery, backend: TensorRtBackend) -> None:
    program = backend.load(source_of(machinery, "denoise"))
    device = backend.open_device()
    tensors = Tensors(device, machinery.denoise, program.scratch_nbytes)
    scratch = tensors.addresses["scratch"]
    lacking = {name: address for name, address in tensors.addresses.items() if name != "step"}
    crooked = {**tensors.addresses, "step": tensors.addresses["step"] + 64}

    with pytest.raises(TensorMismatchError, match="'step': has no address"):
        program.bind(device, lacking, scratch)
    with pytest.raises(TensorMismatchError, match="'step': TensorRT wants its address on a 256-byte boundary, got 0x"):
        program.bind(device, crooked, scratch)
    assert machinery.recorder.named("set_tensor_address") == []
    tensors.close()
    device.close()


def test_scratch_must_be_there_and_aligned(machinery: Machinery, backend: TensorRtBackend) -> None:
    program = backend.load(source_of(machinery, "denoise"))
    device = backend.open_device()

    with pytest.raises(ValueError, match="needs 65536 bytes of scratch memory, got none"):
        program.bind(device, anywhere(machinery))
    with pytest.raises(ValueError, match="512-byte boundary, got 0x10100"):
        program.bind(device, anywhere(machinery), 0x10100)
    assert machinery.recorder.alive("IExecutionContext") == 0
    device.close()


def test_a_context_that_is_refused_is_said(machinery: Machinery, backend: TensorRtBackend) -> None:
    for name in ("create_execution_context", "create_execution_context_without_device_memory"):
        machinery.recorder.fail(name, log="out of memory")
    program = backend.load(source_of(machinery, "denoise"))
    device = backend.open_device()

    with pytest.raises(DeviceError, match="create_execution_context: out of memory"):
        program.bind(device, anywhere(machinery), 0x10000)
    program.bind(device, anywhere(machinery), 0x10000).close()  # the next one works again
    device.close()


def test_a_failed_run_carries_tensorrts_words_and_the_next_one_works(
    machinery: Machinery, backend: TensorRtBackend
) -> None:
    program = backend.load(source_of(machinery, "denoise"))
    device = backend.open_device()
    tensors = Tensors(device, machinery.denoise, program.scratch_nbytes)
    call = program.bind(device, tensors.addresses, tensors.addresses["scratch"])
    machinery.recorder.fail("execute_async_v3", returns=False, log="Cask (illegal memory access)")
    machinery.recorder.fail("set_tensor_address", at=3, returns=False, log="wrong alignment")

    with pytest.raises(DeviceError, match="set_tensor_address: '.*': wrong alignment") as refused:
        call.enqueue()
    assert refused.value.call == "set_tensor_address"
    with pytest.raises(DeviceError, match=r"execute_async_v3: Cask \(illegal memory access\)"):
        call.enqueue()
    call.enqueue()
    count = len(machinery.denoise.inputs) + len(machinery.denoise.outputs)
    assert len(machinery.recorder.named("set_tensor_address")) == 3 + count
    backend.close()
    tensors.close()
    device.close()


def test_a_failure_without_a_word_says_so(machinery: Machinery, backend: TensorRtBackend) -> None:
    machinery.recorder.fail("deserialize_cuda_engine")

    refuse(machinery, backend, "refuses the plan: TensorRT gave no reason", BackendError)


def test_what_is_closed_refuses_to_work(machinery: Machinery, backend: TensorRtBackend) -> None:
    program = backend.load(source_of(machinery, "denoise"))
    device = backend.open_device()
    tensors = Tensors(device, machinery.denoise, program.scratch_nbytes)
    call = program.bind(device, tensors.addresses, tensors.addresses["scratch"])
    call.close()

    with pytest.raises(RuntimeError, match="the execution context is closed"):
        call.enqueue()
    program.close()
    with pytest.raises(RuntimeError, match="the program is closed"):
        program.bind(device, tensors.addresses, tensors.addresses["scratch"])
    backend.close()
    with pytest.raises(RuntimeError, match="the backend is closed"):
        backend.load(source_of(machinery, "denoise"))
    tensors.close()
    device.close()


def test_trust_is_of_the_bytes_not_of_the_name(machinery: Machinery, backend: TensorRtBackend) -> None:
    other = plan_of(machinery.recorder, machinery.denoise, name="other")
    record_trust(hashlib.sha256(other).hexdigest())
    rebuild(machinery, {"denoise": other}, trusted=False)

    assert backend.load(source_of(machinery, "denoise")).capturable
