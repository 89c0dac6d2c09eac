"""Engines of quantised graphs, built by the recorder: which releases take which, and what is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from calibrated import calibrate_copy
from fake_cuda import enabled_fake_cuda
from tensorrt_recorder import RELEASES, Recorder, install

from vdmrt.bundle import Bundle, open_bundle
from vdmrt.engines import build_engines
from vdmrt.engines.building import _check_fp8
from vdmrt.engines.gpu import Gpu
from vdmrt.errors import EngineError

PRECISIONS = ["int8", "int8-fp16", "fp8", "int8-kv8", "int8-fp16-kv8"]


@pytest.fixture(scope="module")
def quantised(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("quantised")
    for options in ({"precision": "int8"}, {"precision": "fp8"}, {"precision": "int8", "kv": "int8"}):
        calibrate_copy(tiny_bundle, folder, **options)
    return open_bundle(folder / "bundle")


@pytest.fixture
def recorder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with enabled_fake_cuda(), install(request.param, gpu="vdmrt fake GPU", compute_capability="9.0") as recorder:
        yield recorder


@pytest.mark.parametrize("recorder", RELEASES[1:], indirect=True)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_new_releases_build_every_quantised_precision(quantised: Bundle, recorder: Recorder, precision: str) -> None:
    lines: list[str] = []

    engine = build_engines(quantised, precision=precision, progress=lines.append)

    assert engine.manifest.precision == precision
    assert f"-{precision}-" in engine.manifest.key
    cache = next(spec for spec in engine.plan("denoise").inputs if spec.name == "past_k.0")
    assert (cache.dtype == "int8") is precision.endswith("-kv8")
    assert any(line.startswith("KV cache") for line in lines)


@pytest.mark.parametrize("recorder", ["8.5"], indirect=True)
@pytest.mark.parametrize(
    ("precision", "sentence"),
    [
        ("int8", r"node '\S+' is ai\.onnx\.QuantizeLinear, which the parser of TensorRT 8\.5 lacks; use TensorRT 10"),
        ("int8-fp16", r"the graph is of opset 19, .* has no form in opset 16, the newest of TensorRT 8\.5; use Tensor"),
        ("fp8", r"the graph is of opset 19, .* has no form in opset 16"),
    ],
)
def test_the_old_release_refuses_them_by_name(
    quantised: Bundle, recorder: Recorder, precision: str, sentence: str
) -> None:
    with pytest.raises(EngineError, match=sentence):
        build_engines(quantised, precision=precision, progress=list[str]().append)
    assert recorder.named("build_serialized_network") == []


def test_fp8_needs_a_gpu_that_has_it(quantised: Bundle) -> None:
    old = Gpu("NVIDIA A100", "8.0", 80 << 30, 108, 1_410_000_000, 1_593_000_000, 5120, "12.8", "")

    with pytest.raises(
        EngineError, match=r"FP8 products need compute capability 8\.9 or newer, NVIDIA A100 has 8\.0; take int8-fp16"
    ):
        _check_fp8(quantised.manifest.graphs["fp8"], old)
    _check_fp8(quantised.manifest.graphs["int8-fp16"], old)
