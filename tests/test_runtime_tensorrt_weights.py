"""Plans without their weights, and plans whose weights are streamed: built by us, and run in each release that can."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorrt_engines import Machinery, Tensors, source_of, tensorrt_machine
from tensorrt_recorder import RELEASES

from vdmrt.bundle import FP16, Engine, stage_graphs
from vdmrt.engines import BuildOptions, build_engines
from vdmrt.errors import BackendError
from vdmrt.runtime.backends.tensorrt.backend import TensorRtBackend

STAGES = ["fill", "denoise", "vae_encode", "vae_decode"]


@pytest.fixture(params=RELEASES[1:])
def machinery(
    request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Machinery]:
    with tensorrt_machine(request.param, tiny_bundle, tmp_path, monkeypatch, compute_capability="9.0") as found:
        yield found


def build(machinery: Machinery, options: BuildOptions) -> Engine:
    engine = build_engines(machinery.bundle, precision="fp16", options=options, progress=list[str]().append)
    machinery.recorder.calls.clear()
    return engine


def run_all(machinery: Machinery) -> dict[str, bool]:
    """Load every stage, enqueue it once, and return by stage whether it may be captured."""
    backend, capturable = TensorRtBackend(), {}
    for stage, graph in stage_graphs(machinery.bundle, FP16).items():
        program = backend.load(source_of(machinery, stage))
        device = backend.open_device()
        tensors = Tensors(device, graph, program.scratch_nbytes)
        program.bind(device, tensors.addresses, tensors.addresses["scratch"]).enqueue()
        capturable[stage] = program.capturable
        tensors.close()
        device.close()
    backend.close()
    return capturable


@pytest.mark.parametrize("refit", [False, True])
def test_stripped_plans_get_the_bundles_weights_at_loading(machinery: Machinery, refit: bool) -> None:
    engine = build(machinery, BuildOptions(strip_weights=True, refit=refit))

    run_all(machinery)

    graphs = stage_graphs(machinery.bundle, FP16)
    models = [call.arguments["model"] for call in machinery.recorder.named("refit_from_file")]
    assert engine.manifest.stripped
    assert models == [str(machinery.bundle.path / graphs[stage].file.file) for stage in STAGES]
    names = [call.name for call in machinery.recorder.calls]
    assert names.index("refit_cuda_engine") < names.index("create_execution_context")


def test_stripped_plans_need_a_release_that_refits_from_a_graph(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorrt_engines import write_engine

    with tensorrt_machine("8.5", tiny_bundle, tmp_path, monkeypatch) as machinery:
        write_engine(machinery.bundle, machinery.recorder, stripped=True, key="stripped", created="2026-11-22")
        backend = TensorRtBackend()

        with pytest.raises(BackendError, match=r"holds no weights, and TensorRT 8\.5\S+ cannot put them in"):
            backend.load(source_of(machinery, "denoise"))
        backend.close()


def test_weights_that_do_not_fit_are_refused(machinery: Machinery) -> None:
    build(machinery, BuildOptions(strip_weights=True))
    machinery.recorder.fail("refit_cuda_engine", returns=False, log="IRefitter::refitCudaEngine: weights are missing")
    backend = TensorRtBackend()

    with pytest.raises(
        BackendError, match=r"the weights of .*denoise\.fp16\.onnx do not fit it: .*weights are missing"
    ):
        backend.load(source_of(machinery, "denoise"))
    backend.close()


def test_plans_that_may_be_refitted_are_run_as_they_are(machinery: Machinery) -> None:
    build(machinery, BuildOptions(refit=True))

    run_all(machinery)

    assert machinery.recorder.named("refit_from_file") == []


def test_the_budget_of_streamed_weights_is_set_before_any_context(machinery: Machinery) -> None:
    build(machinery, BuildOptions(weight_streaming_fill=True))

    capturable = run_all(machinery)

    calls = [call for call in machinery.recorder.calls if call.subject.startswith("ICudaEngine")]
    (budget,) = (index for index, call in enumerate(calls) if call.name == "weight_streaming_budget_v2=")
    first = next(index for index, call in enumerate(calls) if call.name.startswith("create_execution_context"))
    assert budget < first
    assert capturable == {"fill": False, "denoise": True, "vae_encode": True, "vae_decode": True}


def test_streamed_weights_that_were_stripped_are_put_back_first(machinery: Machinery) -> None:
    build(machinery, BuildOptions(weight_streaming_fill=True, strip_weights=True))

    run_all(machinery)

    names = [call.name for call in machinery.recorder.calls]
    assert names.index("refit_cuda_engine") < names.index("weight_streaming_budget_v2=")
    assert names.index("weight_streaming_budget_v2=") < names.index("create_execution_context")
