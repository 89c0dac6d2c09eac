"""Engines that the real TensorRT for RTX builds on this machine, without a GPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import onnx
import psutil
import pytest
from click.testing import CliRunner

from vdmrt.bundle import FP16, Bundle, is_trusted, list_engines, open_bundle, sha256_of
from vdmrt.cli import main
from vdmrt.engines import BuildOptions, build_engines, lower_graphs
from vdmrt.errors import BackendError, EngineError


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return open_bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def wait_for_worker(pid: int) -> psutil.Process:
    """Return the process that builds for another one, once it runs."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            if any("engines.tensorrt.rtx.worker" in part for part in child.cmdline()):
                return child
        time.sleep(0.02)
    raise AssertionError("no process builds")


def run(*arguments: object) -> tuple[int, str, str]:
    found = CliRunner().invoke(main, [str(each) for each in arguments])
    return found.exit_code, found.stdout, found.stderr


def test_an_engine_names_its_gpus_and_is_trusted(bundle: Bundle) -> None:
    engine = build_engines(bundle, backend="tensorrt-rtx", options=BuildOptions(targets=("sm89", "8.6", "sm89")))

    manifest = engine.manifest
    assert manifest.targets == ("8.6", "8.9")
    assert manifest.key.startswith("rtx1.7.1.116-sm86-sm89-fp16-")
    assert (manifest.machine.tensorrt_rtx, manifest.machine.gpu) == ("1.7.1.116", "")
    assert all(is_trusted(plan.file.sha256) for plan in manifest.plans.values())
    assert all(plan.scratch_nbytes > 0 for plan in manifest.plans.values())
    audit = manifest.plans["denoise"].audit
    assert audit is not None and audit.products["fp16"] > 0 and audit.unknown_products == 0
    assert set(json.loads((engine.path / "layers.json").read_text())) == set(manifest.plans)


def test_plans_are_the_same_byte_for_byte(bundle: Bundle) -> None:
    lines: list[str] = []
    first = build_engines(bundle, backend="tensorrt-rtx")
    assert build_engines(bundle, backend="tensorrt-rtx").manifest.created == first.manifest.created

    again = build_engines(bundle, backend="tensorrt-rtx", force=True, progress=lines.append)

    assert again.manifest.created != first.manifest.created
    assert "built again: every plan is the same, byte for byte" in lines


def test_portable_and_targeted_engines_are_kept_side_by_side(bundle: Bundle) -> None:
    for options in (BuildOptions(portable=True), BuildOptions(), BuildOptions(targets=("sm120",))):
        build_engines(bundle, backend="tensorrt-rtx", options=options)

    assert sorted(engine.manifest.targets for engine in list_engines(bundle)) == [(), ("12.0",)]


def test_turing_is_refused_with_the_reason(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"for Turing \(sm75\) it has no float32 products, .*; leave sm75 out"):
        build_engines(bundle, backend="tensorrt-rtx", options=BuildOptions(targets=("sm75", "sm89")))
    assert list_engines(bundle) == ()
    assert [path.name for path in (bundle.path / "engines").iterdir() if not path.name.endswith(".lock")] == []


def test_a_float32_engine_has_float32_products(bundle: Bundle) -> None:
    engine = build_engines(bundle, backend="tensorrt-rtx", precision="fp32")

    audit = engine.manifest.plans["denoise"].audit
    assert audit is not None and set(audit.products) == {"fp32"}


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"optimization_level": 3}, "--builder-optimization-level"),
        ({"timing_cache": Path("x")}, "--timing-cache"),
        ({"hardware_compatibility": "ampere_plus"}, "--hardware-compatibility"),
        ({"version_compatible": True}, "--version-compatible"),
        ({"strip_weights": True}, "--strip-weights"),
        ({"refit": True}, "--refit"),
        ({"weight_streaming_fill": True}, "--weight-streaming-fill"),
        ({"external_tactics": True}, "--external-tactics"),
        ({"precision_constraints": "none"}, "--precision-constraints"),
    ],
)
def test_options_of_tensorrt_are_refused(bundle: Bundle, options: dict[str, object], option: str) -> None:
    with pytest.raises(EngineError, match=f"^{option} is for TensorRT, and this builds with TensorRT for RTX; leave"):
        build_engines(bundle, backend="tensorrt-rtx", options=BuildOptions(**options))  # type: ignore[arg-type]


def test_a_graph_that_its_parser_does_not_take_is_named(bundle: Bundle) -> None:
    paths = lower_graphs(bundle, FP16, release="rtx")
    model = onnx.load(paths["fill"], load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "Softmax")
    node.op_type = "Det"
    del node.attribute[:]
    paths["fill"].write_bytes(model.SerializeToString())
    record = paths["fill"].with_suffix(".json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"sha256": sha256_of(paths["fill"])}))

    with pytest.raises(BackendError, match=rf"the parser of TensorRT for RTX .* refuses it: .*{node.name}.*Det"):
        build_engines(bundle, backend="tensorrt-rtx")


def test_a_build_that_the_system_kills_is_reported(bundle: Bundle) -> None:
    def kill(line: str) -> None:
        if "fill: building" in line:
            threading.Thread(target=lambda: wait_for_worker(os.getpid()).kill()).start()

    with pytest.raises(BackendError, match="fill: the process that builds ended with signal 9, as the system ends"):
        build_engines(bundle, backend="tensorrt-rtx", progress=kill)


@pytest.mark.parametrize("name", ["json.py", "tensorrt_rtx.py", "vdmrt.py"])
def test_files_of_a_bundle_are_never_executed(bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle.path / "graphs" / name).write_text("raise SystemExit('executed')")
    monkeypatch.chdir(bundle.path / "graphs")
    source = "import sys; sys.path.pop(0); from vdmrt.cli import main; main()"
    command = [sys.executable, "-c", source, "build", str(bundle.path), "--backend", "tensorrt-rtx"]

    done = subprocess.run(command, capture_output=True, text=True)

    assert (done.returncode, "executed" in done.stderr) == (0, False)


def test_a_worker_that_ends_at_once_is_reported(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vdmrt.engines.tensorrt.rtx.process._WORKER", "raise SystemExit(3)")

    with pytest.raises(BackendError, match="fill: the process that builds ended with exit status 3; its messages are"):
        build_engines(bundle, backend="tensorrt-rtx")


def test_onnxruntime_is_not_built_here(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="wanted tensorrt or tensorrt-rtx, got 'onnxruntime'"):
        build_engines(bundle, backend="onnxruntime")


def test_a_gpu_that_is_not_there_is_no_target(bundle: Bundle) -> None:
    code, _, err = run("build", bundle.path, "--backend", "tensorrt-rtx", "--gpu", "5")

    assert code == 1
    assert "wanted GPU 5 as the target, the driver sees 0; leave --gpu out, or name the target with --target" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_build_that_was_ended(bundle: Bundle, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "vdmrt", "build", str(bundle.path), "--backend", "tensorrt-rtx"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        worker = wait_for_worker(process.pid)
        process.send_signal(number)
        assert process.wait(30) != 0

    assert worker.wait(30) is None or not worker.is_running()
    assert list_engines(bundle) == ()
    if number != signal.SIGKILL:  # what a killed build leaves is removed by the next one
        assert [path.name for path in (bundle.path / "engines").iterdir() if path.is_dir()] == []


def test_the_command_builds_and_inspect_names_the_gpus(bundle: Bundle) -> None:
    code, out, err = run("build", bundle.path, "--backend", "tensorrt-rtx", "--target", "sm120", "--target", "sm89")

    assert code == 0
    assert "GPUs            of compute capability 8.9, 12.0" in err
    assert "not checked: this machine has no GPU that the engine is built for" in err
    assert Path(out.strip()).is_dir()
    assert "TensorRT for RTX 1.7.1.116 for GPUs of compute capability 8.9, 12.0" in run("inspect", bundle.path)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--target", "sm90"],
            "sm75, sm80, sm86, sm89, sm120, sm121, one in each --target; got 'sm90'; for Hopper",
        ),
        (["--target", "4090"], "got '4090'"),
        (
            ["--target", "sm89", "--portable"],
            "--portable is for every GPU and --target for some: leave one",
        ),
    ],
)
def test_a_wrong_target_is_misuse(bundle: Bundle, arguments: list[str], message: str) -> None:
    code, _, err = run("build", bundle.path, "--backend", "tensorrt-rtx", *arguments)

    assert code == 2
    assert message in err


def test_the_other_backends_take_no_target(bundle: Bundle) -> None:
    code, _, err = run("build", bundle.path, "--backend", "onnxruntime", "--target", "sm89")

    assert (code, "--target is for TensorRT for RTX; leave it out" in err) == (2, True)


def test_a_full_check_without_the_gpu_is_refused_before_the_build(bundle: Bundle) -> None:
    code, _, err = run("build", bundle.path, "--backend", "tensorrt-rtx", "--check", "full")

    assert code == 1
    assert "--check full runs the engine, and this machine has no GPU that the engine is built for" in err
    assert not (bundle.path / "engines").exists()


def test_a_dry_run_names_gpus_and_engine(bundle: Bundle) -> None:
    code, out, _ = run("build", bundle.path, "--backend", "tensorrt-rtx", "--dry-run")

    assert code == 0
    assert f"{bundle.path}/engines/rtx1.7.1.116-portable-fp16-" in out
    assert "GPUs            of compute capability 8.0, 8.6, 8.9, 12.0, 12.1" in out
