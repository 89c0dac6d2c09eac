"""The GPU check without a GPU: what its stages keep when they end badly, and the parts that any machine can run."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fake_cuda import enabled_fake_cuda
from safetensors.numpy import save_file

from vdmrt.bundle import open_bundle
from vdmrt.export import ExportOptions, TransformerConfig, export_bundle, random_model

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu_check.py"
GOLDEN = Path(__file__).parent / "data" / "golden"
SMALL = TransformerConfig(
    latent_size=(4, 4),
    hidden_size=64,
    depth=2,
    heads=4,
    text_width=8,
    text_tokens=5,
    context="previous",
    context_frames=2,
)
SMALL_OPTIONS = ExportOptions(precisions=("fp16",), chunk_frames=2, slots=5, max_steps=6, prediction="v")

# What a stage's process starts with: its own name and where its records go.
STAGE_PROCESS = """
import json, os, signal, subprocess, sys, time
records = sys.argv[sys.argv.index("--records") + 1]
with open(records, "a") as file:
    file.write(json.dumps({"what": "found first", "value": 1.0, "unit": "ms"}) + "\\n")
"""

# The module's latents and the session's, from one folder of generated weights.
AGREE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from gpu.chunk import FirstChunk
from gpu.golden import relative_error
from gpu.torch_steps import TorchSteps
from gpu.vdmrt_steps import VdmrtSteps

folder = Path(sys.argv[2])
session = VdmrtSteps(folder, "onnxruntime", "cpu")
module = TorchSteps(folder, "cpu", (), uncached="eager")
chunk = FirstChunk(session.bundle, seed=0)
assert len(module.time("torch eager without a cache", 2)["ms"]) == 2
assert len(session.first_chunk(chunk)) == 2 and len(session.time("vdmrt onnxruntime", 3)["ms"]) == 3
print(relative_error(session.first_chunk(chunk), module.first_chunk(chunk)))
"""


@pytest.fixture(scope="module")
def check() -> Iterator[Any]:
    """The script's modules by name; it is no package of vdmrt."""
    sys.path.insert(0, str(BENCHMARKS))
    parts = "golden idle plans record report rollout safetensors_file settings stage stepping weights".split()
    names = ["gpu_check", *(f"gpu.{part}" for part in parts)]
    try:
        modules = {name: importlib.import_module(name) for name in names}
        yield modules
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in [name for name in sys.modules if name == "gpu_check" or name.split(".")[0] == "gpu"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def described(check: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model that travels without its weights, as xl-4."""
    folder = tmp_path_factory.mktemp("described")
    model = random_model(SMALL, 0)
    bundle = export_bundle(model, folder / "whole", SMALL_OPTIONS, name="small", random_weights=True)
    parameters = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    check["gpu.weights"].describe_weights(bundle, SMALL, parameters, folder / "xl-4")
    return folder


def settings_of(check: Any, folder: Path, **given: Any) -> Any:
    """Return settings of a rehearsal in a folder."""
    interpreters = {name: [sys.executable] for name in ("main", "onnxruntime", "tensorrt")}
    arguments = {
        "device": "cpu", "rehearse": True, "golden": str(GOLDEN), "bundles": str(folder), "xl": str(folder),
        "work": str(folder / "work"), "reference": None, "interpreters": interpreters, **given,
    }  # fmt: skip
    return check["gpu.settings"].Settings(**arguments)


def run_process(check: Any, folder: Path, script: str, limit_s: float = 30) -> Any:
    """Run a stage whose process is a script of the test's."""
    (folder / "process.py").write_text(STAGE_PROCESS + script)
    stage = check["gpu.stage"]
    return stage.run_stage(
        stage.Stage("ceilings", "", ""),
        settings_of(check, folder),
        [sys.executable, str(folder / "process.py")],
        limit_s,
        folder / "check.log",
        lambda found: None,
    )


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a user does."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def test_a_stage_that_crashes_keeps_what_it_found(check: Any, tmp_path: Path) -> None:
    result = run_process(check, tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)")

    assert result.status == "failed"
    assert "signal 11" in result.why
    assert [record["what"] for record in result.records] == ["found first"]


def test_a_stage_that_hangs_is_ended_with_what_it_started(check: Any, tmp_path: Path) -> None:
    script = "print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    result = run_process(check, tmp_path, script, limit_s=2)
    child = Path("/proc") / (tmp_path / "check.log").read_text().split()[-1]

    assert result.status == "timed out"
    assert len(result.records) == 1
    assert until(lambda: not child.exists() or "Z" in (child / "stat").read_text().split()[2])


def test_a_stage_that_raises_says_its_traceback(check: Any, tmp_path: Path) -> None:
    result = run_process(check, tmp_path, "raise ValueError('no such kernel')")

    assert result.status == "failed"
    assert "ValueError: no such kernel" in result.why


def test_what_is_missing_is_no_failure(check: Any, tmp_path: Path) -> None:
    result = run_process(check, tmp_path, "print('there is no GPU', file=sys.stderr); sys.exit(66)")

    assert (result.status, result.why) == ("missing", "there is no GPU")


def test_an_interpreter_that_is_not_there_is_missing(check: Any, tmp_path: Path) -> None:
    stage = check["gpu.stage"]
    result = stage.run_stage(
        stage.Stage("ceilings", "", ""), settings_of(check, tmp_path), ["/no/python"], 5, tmp_path / "log", print
    )

    assert (result.status, result.why) == ("missing", "/no/python cannot be run: No such file or directory")


@pytest.mark.parametrize(
    ("value", "wanted", "held"),
    [(1.0, {"most": 1.0}, True), (1.1, {"most": 1.0}, False), (0.9, {"least": 1.0}, False),
     (float("nan"), {"most": 1.0}, False), (float("inf"), {"least": 1.0}, False), (float("nan"), {}, True)],
)  # fmt: skip
def test_a_figure_holds_or_misses(
    check: Any, tmp_path: Path, value: float, wanted: dict[str, float], held: bool
) -> None:
    record = check["gpu.record"]
    path = tmp_path / "records"

    assert record.Recorder(path).add("a figure", value, "ms", **wanted) is held
    assert record.all_held(record.read_records(path)) is held
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()


def test_a_record_cut_off_by_a_kill_is_left_out(check: Any, tmp_path: Path) -> None:
    record = check["gpu.record"]
    record.Recorder(tmp_path / "records").note("whole")
    with (tmp_path / "records").open("a") as file:
        file.write('{"what": "cut o')

    assert record.read_records(tmp_path / "records") == [{"what": "whole"}]


def test_a_report_adds_to_what_an_earlier_run_kept(check: Any, tmp_path: Path) -> None:
    report, stage = check["gpu.report"], check["gpu.stage"]
    settings = settings_of(check, tmp_path)
    path = tmp_path / "out.json"
    report.Report(path, settings).keep("ceilings", stage.Result("held", 12.0, "", [{"what": "a", "value": 1.5}]))
    second = report.Report(path, settings)
    second.keep("xl-4", [{"what": "so far", "value": 1.0, "unit": "ms"}])

    kept = json.loads(path.read_text())["stages"]
    assert set(kept) == {"ceilings", "xl-4"}
    assert kept["xl-4"]["status"] == "running"
    assert second.seconds_held("ceilings") == 12.0 and second.seconds_held("xl-4") is None


def test_the_table_stands_beside_the_results(check: Any, tmp_path: Path) -> None:
    report = check["gpu.report"].Report(tmp_path / "results.json", settings_of(check, tmp_path))

    report.keep("ceilings", [{"what": "a copy", "value": 2.0, "unit": "TB/s"}])

    assert (tmp_path / "results.txt").read_text() == "ceilings: running in 0 s\n    a copy: 2 TB/s\n"


def test_a_builder_that_fails_is_recorded_and_leaves_the_others(check: Any, tmp_path: Path) -> None:
    record = check["gpu.record"].Recorder(tmp_path / "records")

    built = check["gpu.plans"].build_apart(settings_of(check, tmp_path), record, "none", tmp_path / "none", 60)

    (found,) = check["gpu.record"].read_records(tmp_path / "records")
    assert not built
    assert found["what"] == "plans of none, failed"
    assert "BundleError" in found["error"]


def test_a_builder_that_takes_too_long_is_ended(check: Any) -> None:
    started = time.monotonic()

    assert check["gpu.plans"].run_limited(["sleep", "600"], 0.2) is None
    assert time.monotonic() - started < 30
    assert check["gpu.plans"].run_limited(["true"], 30) == 0


def test_a_rollout_is_warm_when_chunks_and_time_are_enough(check: Any) -> None:
    class Session:
        def step(self) -> None:
            time.sleep(0.01)

    warm_up = check["gpu.rollout"]._warm_up
    assert warm_up(Session(), 3, 0.0) == 3
    assert 3 < warm_up(Session(), 3, 0.1) <= 11


def test_the_large_stages_wait_for_the_small_ones(check: Any, tmp_path: Path) -> None:
    main, report = check["gpu_check"], check["gpu.report"]
    settings = settings_of(check, tmp_path)
    kept = report.Report(tmp_path / "out.json", settings)
    (stage,) = main.choose_stages(["xl-28"])
    main.run_one(stage, settings, kept, None, asked=False)
    main.run_one(main.choose_stages(["ceilings"])[0], settings, kept, time.monotonic() - 1, asked=True)

    stages = kept.document["stages"]
    assert "xl-4 did not hold within" in stages["xl-28"]["why"]
    assert "time limit of the whole check" in stages["ceilings"]["why"]


def test_an_unknown_stage_is_named_with_those_that_are_known() -> None:
    done = run_script("--stages", "environment,golden")

    assert done.returncode == 1
    assert "no stage 'golden'; known are environment, " in done.stderr


def test_tensors_are_read_without_the_safetensors_package(check: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, npt.NDArray[Any]] = {
        "half": rng.standard_normal((2, 3)).astype(np.float16),
        "frames": np.arange(4, dtype=np.int64),
        "scalar": np.array(2.5, np.float32),
    }
    save_file(tensors, tmp_path / "io.safetensors", {"note": "kept out"})
    found = check["gpu.safetensors_file"].load_tensors(tmp_path / "io.safetensors")

    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_a_truncated_tensor_file_is_refused(check: Any, tmp_path: Path) -> None:
    (tmp_path / "io.safetensors").write_bytes(b"\xff\xff\0\0\0\0\0\0{}")

    with pytest.raises(ValueError, match="a header of 65535 bytes in 10 bytes"):
        check["gpu.safetensors_file"].load_tensors(tmp_path / "io.safetensors")


def test_one_seed_makes_the_same_weights_and_a_bundle_that_verifies(
    check: Any, described: Path, tmp_path: Path
) -> None:
    make = check["gpu.weights"].make_weights
    first, again, other = (make(described / "xl-4", tmp_path / str(i), seed) for i, seed in enumerate((0, 0, 1)))
    whole = open_bundle(described / "whole")

    first.verify()
    assert first.manifest == again.manifest
    assert first.manifest != other.manifest
    assert first.manifest.graphs["fp16"]["denoise"].inputs == whole.manifest.graphs["fp16"]["denoise"].inputs
    assert not (described / "xl-4" / "graphs" / "weights.fp16.bin").exists()


def test_made_weights_have_the_spread_of_the_described_ones(check: Any, described: Path, tmp_path: Path) -> None:
    weights = check["gpu.weights"]
    made = weights.load_parameters(weights.make_weights(described / "xl-4", tmp_path / "made", 0).path)
    wanted = dict(random_model(SMALL, 0).use_half_weights().named_parameters())

    assert made.keys() == wanted.keys()
    for name, parameter in wanted.items():
        assert made[name].size == parameter.numel(), name
        if parameter.numel() >= 1024:
            assert made[name].astype(np.float32).std() == pytest.approx(parameter.float().std().item(), rel=0.2), name


def test_the_module_and_a_session_agree_on_made_weights(check: Any, described: Path, tmp_path: Path) -> None:
    """In a process of its own, because the contender changes torch's defaults."""
    check["gpu.weights"].make_weights(described / "xl-4", tmp_path / "made", 0)
    done = subprocess.run(
        [sys.executable, "-c", AGREE, str(BENCHMARKS), str(tmp_path / "made")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2e-3


def test_a_rehearsal_replays_recorded_rollouts(check: Any, tmp_path: Path) -> None:
    rollout = next(check["gpu.golden"].find_rollouts(GOLDEN))
    export_recorded(rollout, tmp_path)
    out = tmp_path / "out.json"
    done = run_script(
        "--rehearse", "--stages", "environment,golden-onnxruntime", "--golden", str(GOLDEN), "--bundles", str(tmp_path),
        "--work", str(tmp_path / "work"), "--out", str(out),
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads(out.read_text())["stages"]["golden-onnxruntime"]["records"]
    figures = [record["what"] for record in records if record.get("held")]
    assert [what.split(rollout.key)[1].split(",")[0].strip() for what in figures] == [
        "fp32", "fp16 free-running", "fp16 teacher-forced",
    ]  # fmt: skip
    assert any("no bundle" in record.get("missing", "") for record in records), "the others have no bundle here"


def test_errors_are_held_against_those_of_the_reference(check: Any, tmp_path: Path) -> None:
    golden, record = check["gpu.golden"], check["gpu.record"]
    recorder = record.Recorder(tmp_path / "records")
    reference = {"golden case fp16 free-running, worst relative L2": 1e-3}
    golden._record_half("golden case fp16 free-running", [1.6e-3, 1e-3], 1e-2, recorder, reference)
    worst, over = record.read_records(tmp_path / "records")

    assert worst["held"] and worst["value"] == 1.6e-3
    assert over["value"] == pytest.approx(1.6) and not over["held"]


def test_idle_time_is_what_lies_between_steps_that_repeat(check: Any) -> None:
    step = [*["attention", "product", "product"] * 4, "update"]
    trace, now = [(0.0, 2.0, "upload")], 2.0
    for _ in range(5):
        for name in step:
            trace.append((now, now + 2, name))
            now += 2
        now += 1  # the GPU rests
    trace += [(now + i, now + i + 1, name) for i, name in enumerate(["attention", "product", "product", "scatter"])]
    share, each = check["gpu.idle"].idle_share(trace, 5)

    assert each == len(step)
    assert share == pytest.approx(4 / (5 * 2 * len(step) + 4))


def test_a_trace_without_steps_is_refused(check: Any) -> None:
    trace = [(float(i), i + 0.5, f"kernel {i}") for i in range(12)]

    with pytest.raises(ValueError, match="12 operations cannot be told apart into 4 steps"):
        check["gpu.idle"].idle_share(trace, 4)


def test_every_way_of_stepping_is_timed_and_gives_its_memory_back(check: Any) -> None:
    stepping = check["gpu.stepping"]
    with enabled_fake_cuda() as fake:
        times = stepping.time_steppers(0, 5, 2, busy=True)
        live, violations = fake.live(), fake.violations()

    assert list(times) == [*stepping.STEPPERS, *stepping.BUSY_STEPPERS]
    assert {(len(host), len(whole)) for host, whole in times.values()} == {(10, 2)}
    assert (live.allocations, live.streams, live.events, live.graphs, live.graph_execs) == (0, 0, 0, 0, 0)
    assert not violations


def export_recorded(rollout: Any, folder: Path) -> None:
    """Export the bundle of a recorded rollout."""
    from vdmrt.export.arguments import config_from_arguments
    from vdmrt.export.checkpoint import load_model

    config = json.loads((rollout.folder / "config.json").read_text())
    options = ExportOptions(
        precisions=("fp32", "fp16"),
        chunk_frames=rollout.chunk,
        slots=rollout.settings["kv_cache_max_seqlen"],
        requests=len(rollout.rows),
    )
    model = load_model(config_from_arguments(config["model"]), rollout.folder)
    export_bundle(model, folder / rollout.bundle, options, name=rollout.folder.name)


def until(holds: Any, limit_s: float = 10) -> bool:
    """Wait until something holds."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False
