"""The checks of a GPU day without a GPU: what stages keep when they end badly, and what any machine can run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fake_cuda import enabled_fake_cuda
from safetensors.numpy import save_file

from vdmrt.benchmarks.gpu_day.carrying.inputs import export_recorded
from vdmrt.benchmarks.gpu_day.checks.core import CANCEL_AT, replay_with_callbacks
from vdmrt.benchmarks.gpu_day.checks.core import STEPS as CORE_STEPS
from vdmrt.benchmarks.gpu_day.checks.golden import _record_half, find_rollouts
from vdmrt.benchmarks.gpu_day.checks.idle import idle_share
from vdmrt.benchmarks.gpu_day.checks.plans import build_apart, run_limited
from vdmrt.benchmarks.gpu_day.checks.rollout import _warm_up
from vdmrt.benchmarks.gpu_day.checks.safetensors_file import load_tensors
from vdmrt.benchmarks.gpu_day.checks.stepping import BUSY_STEPPERS, STEPPERS, time_steppers
from vdmrt.benchmarks.gpu_day.full_size.turns import Turns
from vdmrt.benchmarks.gpu_day.full_size.weights import describe_weights, load_parameters, make_weights
from vdmrt.benchmarks.gpu_day.running.record import Missing, Recorder, all_held, read_records
from vdmrt.benchmarks.gpu_day.running.settings import Settings
from vdmrt.benchmarks.gpu_day.running.stage import Result, Stage, run_stage
from vdmrt.benchmarks.gpu_day.stages import choose_stages
from vdmrt.bundle import FP16, open_bundle
from vdmrt.export import ExportOptions, TransformerConfig, export_bundle, random_model

PACKAGE = Path(__file__).parents[1] / "benchmarks" / "gpu_day"
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
SMALL_OPTIONS = ExportOptions(precisions=(FP16,), chunk_frames=2, slots=5, max_steps=6, prediction="v")

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
from pathlib import Path
from vdmrt.benchmarks.gpu_day.checks.distance import relative_error
from vdmrt.benchmarks.gpu_day.full_size.chunk import FirstChunk
from vdmrt.benchmarks.gpu_day.full_size.torch_steps import TorchSteps
from vdmrt.benchmarks.gpu_day.full_size.vdmrt_steps import VdmrtSteps

folder = Path(sys.argv[1])
session = VdmrtSteps(folder, "onnxruntime", "cpu")
module = TorchSteps(folder, "cpu", (), uncached="eager")
chunk = FirstChunk(session.bundle, seed=0)
assert len(module.time("torch eager without a cache", 2)["ms"]) == 2
assert len(session.first_chunk(chunk)) == 2 and len(session.time("vdmrt onnxruntime", 3)["ms"]) == 3
print(relative_error(session.first_chunk(chunk), module.first_chunk(chunk)))
"""


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model that travels without its weights, as xl-4."""
    folder = tmp_path_factory.mktemp("described")
    model = random_model(SMALL, 0)
    bundle = export_bundle(model, folder / "whole", SMALL_OPTIONS, name="small", random_weights=True)
    parameters = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    describe_weights(bundle, SMALL, parameters, folder / "xl-4")
    return folder


def settings_of(folder: Path, python: Sequence[str] = (sys.executable,)) -> Settings:
    """Return settings of a rehearsal in a folder, its stages run by ``python``."""
    return Settings(
        device="cpu",
        rehearse=True,
        golden=str(GOLDEN),
        bundles=str(folder),
        xl=str(folder),
        kits=str(folder),
        work=str(folder / "work"),
        reference=None,
        interpreters={name: list(python) for name in ("main", "rtx", "onnxruntime", "tensorrt", "memcheck")},
    )


def run_process(folder: Path, script: str, limit_s: float = 30) -> Result:
    """Run a stage whose process is a script of the test's."""
    (folder / "process.py").write_text(STAGE_PROCESS + script)
    settings = settings_of(folder, (sys.executable, str(folder / "process.py")))
    return run_stage(Stage("ceilings", "", ""), settings, limit_s, folder / "check.log", lambda found: None)


def run_real(stage: str, folder: Path) -> Result:
    """Run a stage of the day as it is, rehearsing."""
    (chosen,) = choose_stages([stage])
    return run_stage(chosen, settings_of(folder), 300, folder / "check.log", lambda found: None)


def test_a_stage_that_crashes_keeps_what_it_found(tmp_path: Path) -> None:
    result = run_process(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)")

    assert result.status == "failed"
    assert "signal 11" in result.why
    assert [record["what"] for record in result.records] == ["found first"]


def test_a_stage_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    script = "print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    result = run_process(tmp_path, script, limit_s=2)
    child = Path("/proc") / (tmp_path / "check.log").read_text().split()[-1]

    assert result.status == "timed out"
    assert len(result.records) == 1
    assert until(lambda: not child.exists() or "Z" in (child / "stat").read_text().split()[2])


# What runs a stage, and is ended itself; arguments: folder, and the script of the stage.
STAGE_RUNNER = """
import signal, sys
from pathlib import Path
from vdmrt.benchmarks.gpu_day.running.settings import Settings
from vdmrt.benchmarks.gpu_day.running.stage import Stage, run_stage
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
folder = Path(sys.argv[1])
settings = Settings("cpu", True, "", "", "", "", "", None, {"main": [sys.executable, sys.argv[2]]})
run_stage(Stage("ceilings", "", ""), settings, 60, folder / "log",
          lambda found: (folder / "kept").write_text(str(found)))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_ends_with_the_process_that_runs_it(tmp_path: Path, number: int) -> None:
    (tmp_path / "process.py").write_text(STAGE_PROCESS + "print(os.getpid(), flush=True); time.sleep(600)")
    runner = subprocess.Popen([sys.executable, "-c", STAGE_RUNNER, str(tmp_path), str(tmp_path / "process.py")])
    log = tmp_path / "log"
    assert until(lambda: log.is_file() and log.read_text().strip().rpartition("\n")[2].isdigit())
    stage = Path("/proc") / log.read_text().split()[-1]

    runner.send_signal(number)
    runner.wait(30)

    assert until(lambda: not stage.exists() or "Z" in (stage / "stat").read_text().split()[2])
    assert number == signal.SIGKILL or "found first" in (tmp_path / "kept").read_text()


def test_a_stage_that_raises_says_its_traceback(tmp_path: Path) -> None:
    result = run_process(tmp_path, "raise ValueError('no such kernel')")

    assert result.status == "failed"
    assert "ValueError: no such kernel" in result.why


def test_what_is_missing_is_no_failure(tmp_path: Path) -> None:
    result = run_process(tmp_path, "print('there is no GPU', file=sys.stderr); sys.exit(66)")

    assert (result.status, result.why) == ("missing", "there is no GPU")


def test_an_interpreter_that_is_not_there_is_missing(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, ("/no/python",))

    result = run_stage(Stage("ceilings", "", ""), settings, 5, tmp_path / "log", print)

    assert (result.status, result.why) == ("missing", "/no/python cannot be run: No such file or directory")


@pytest.mark.parametrize(
    ("value", "wanted", "held"),
    [(1.0, {"most": 1.0}, True), (1.1, {"most": 1.0}, False), (0.9, {"least": 1.0}, False),
     (float("nan"), {"most": 1.0}, False), (float("inf"), {"least": 1.0}, False), (float("nan"), {}, True)],
)  # fmt: skip
def test_a_figure_holds_or_misses(tmp_path: Path, value: float, wanted: dict[str, float], held: bool) -> None:
    path = tmp_path / "records"

    assert Recorder(path).add("a figure", value, "ms", **wanted) is held
    assert all_held(read_records(path)) is held
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()


def test_a_record_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    Recorder(tmp_path / "records").note("whole")
    with (tmp_path / "records").open("a") as file:
        file.write('{"what": "cut o')

    assert read_records(tmp_path / "records") == [{"what": "whole"}]


def test_a_builder_that_fails_is_recorded_and_leaves_the_others(tmp_path: Path) -> None:
    record = Recorder(tmp_path / "records")

    built = build_apart(settings_of(tmp_path), record, "none", tmp_path / "none", 60)

    (found,) = read_records(tmp_path / "records")
    assert not built
    assert found["what"] == "plans of none, failed"
    assert "BundleError" in found["error"]


def test_a_builder_that_takes_too_long_is_ended() -> None:
    started = time.monotonic()

    assert run_limited(["sleep", "600"], 0.2) is None
    assert time.monotonic() - started < 30
    assert run_limited(["true"], 30) == 0


class Turntaker:
    """A double of a contender whose first answer takes a millisecond, each next one more, and that ends after some."""

    runs = ("one way",)

    def __init__(self, answers: int = 100) -> None:
        self.answers, self.asked = answers, 0

    def time(self, run: str, count: int, limit_s: float) -> dict[str, list[float]]:
        """Answer."""
        self.asked += 1
        if self.asked > self.answers:
            raise Missing("it has ended")
        return {"ms": [float(self.asked)] * count}


def test_every_round_is_recorded_when_it_ends(tmp_path: Path) -> None:
    turns = Turns(Recorder(tmp_path / "records"), "depth 1", 2, time.monotonic() + 100)

    turns.warm_up([contender := Turntaker(answers=3)])
    turns.take([contender], 4)

    warm, first, second, lost = read_records(tmp_path / "records")
    assert warm == {"what": "depth 1, one way, warming up", "median_ms": 1.0, "ms": [1.0, 1.0]}
    assert (first["median_of_rounds_ms"], second["median_of_rounds_ms"]) == (2.0, 2.5)
    assert lost == {"what": "one way", "missing": "it has ended"}
    assert len(turns.answers["one way"]) == 2 and contender.asked == 4


def test_turns_stop_when_the_time_is_over(tmp_path: Path) -> None:
    turns = Turns(Recorder(tmp_path / "records"), "depth 1", 2, time.monotonic())

    turns.take([contender := Turntaker()], 3)

    assert contender.asked == 0
    assert [record["what"] for record in read_records(tmp_path / "records")] == ["depth 1, stopped in round 1 of 3"]


def test_a_rollout_is_warm_when_chunks_and_time_are_enough() -> None:
    class Session:
        def step(self) -> None:
            time.sleep(0.01)

    assert _warm_up(Session(), 3, 0.0) == 3
    assert 3 < _warm_up(Session(), 3, 0.1) <= 11


def test_tensors_are_read_without_the_safetensors_package(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors: dict[str, npt.NDArray[Any]] = {
        "half": rng.standard_normal((2, 3)).astype(np.float16),
        "frames": np.arange(4, dtype=np.int64),
        "scalar": np.array(2.5, np.float32),
    }
    save_file(tensors, tmp_path / "io.safetensors", {"note": "kept out"})
    found = load_tensors(tmp_path / "io.safetensors")

    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_a_truncated_tensor_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "io.safetensors").write_bytes(b"\xff\xff\0\0\0\0\0\0{}")

    with pytest.raises(ValueError, match="a header of 65535 bytes in 10 bytes"):
        load_tensors(tmp_path / "io.safetensors")


def test_one_seed_makes_the_same_weights_and_a_bundle_that_verifies(described: Path, tmp_path: Path) -> None:
    first, again, other = (
        make_weights(described / "xl-4", tmp_path / str(i), seed) for i, seed in enumerate((0, 0, 1))
    )
    whole = open_bundle(described / "whole")

    first.verify()
    assert first.manifest == again.manifest
    assert first.manifest != other.manifest
    assert first.manifest.graphs[FP16]["denoise"].inputs == whole.manifest.graphs[FP16]["denoise"].inputs
    assert not (described / "xl-4" / "graphs" / "weights.fp16.bin").exists()


def test_made_weights_have_the_spread_of_the_described_ones(described: Path, tmp_path: Path) -> None:
    made = load_parameters(make_weights(described / "xl-4", tmp_path / "made", 0).path)
    wanted = dict(random_model(SMALL, 0).use_half_weights().named_parameters())

    assert made.keys() == wanted.keys()
    for name, parameter in wanted.items():
        assert made[name].size == parameter.numel(), name
        if parameter.numel() >= 1024:
            assert made[name].astype(np.float32).std() == pytest.approx(parameter.float().std().item(), rel=0.2), name


def test_the_module_and_a_session_agree_on_made_weights(described: Path, tmp_path: Path) -> None:
    """In a process of its own, because the contender changes torch's defaults."""
    make_weights(described / "xl-4", tmp_path / "made", 0)
    done = subprocess.run(
        [sys.executable, "-c", AGREE, str(tmp_path / "made")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2e-3


def test_a_rehearsal_replays_recorded_rollouts(tmp_path: Path) -> None:
    rollout = next(find_rollouts(GOLDEN))
    export_recorded(rollout, tmp_path)

    result = run_real("golden-onnxruntime", tmp_path)

    assert result.status == "held", result.why
    figures = [record["what"] for record in result.records if record.get("held")]
    assert [what.split(rollout.key)[1].split(",")[0].strip() for what in figures] == [
        "fp32", "fp16 free-running", "fp16 teacher-forced",
    ]  # fmt: skip
    assert any("no bundle" in record.get("missing", "") for record in result.records), "the others have no bundle here"


def test_errors_are_held_against_those_of_the_reference(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "records")
    reference = {"golden case fp16 free-running, worst relative L2": 1e-3}
    _record_half("golden case fp16 free-running", [1.6e-3, 1e-3], 1e-2, recorder, reference)
    worst, over = read_records(tmp_path / "records")

    assert worst["held"] and worst["value"] == 1.6e-3
    assert over["value"] == pytest.approx(1.6) and not over["held"]


def test_idle_time_is_what_lies_between_steps_that_repeat() -> None:
    step = [*["attention", "product", "product"] * 4, "update"]
    trace, now = [(0.0, 2.0, "upload")], 2.0
    for _ in range(5):
        for name in step:
            trace.append((now, now + 2, name))
            now += 2
        now += 1  # the GPU rests
    trace += [(now + i, now + i + 1, name) for i, name in enumerate(["attention", "product", "product", "scatter"])]
    share, each = idle_share(trace, 5)

    assert each == len(step)
    assert share == pytest.approx(4 / (5 * 2 * len(step) + 4))


def test_a_trace_without_steps_is_refused() -> None:
    trace = [(float(i), i + 0.5, f"kernel {i}") for i in range(12)]

    with pytest.raises(ValueError, match="12 operations cannot be told apart into 4 steps"):
        idle_share(trace, 4)


def test_every_way_of_stepping_is_timed_and_gives_its_memory_back() -> None:
    with enabled_fake_cuda() as fake:
        times = time_steppers(0, 5, 2, busy=True)
        live, violations = fake.live(), fake.violations()

    assert list(times) == [*STEPPERS, *BUSY_STEPPERS]
    assert {(len(host), len(whole)) for host, whole in times.values()} == {(10, 2)}
    assert (live.allocations, live.streams, live.events, live.graphs, live.graph_execs) == (0, 0, 0, 0, 0)
    assert not violations


def until(holds: Any, limit_s: float = 10) -> bool:
    """Wait until something holds."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("cancel_at", "seen"), [(None, CORE_STEPS), (CANCEL_AT, CANCEL_AT)])
def test_a_replay_that_a_callback_cancels_leaves_the_core_usable_and_empty(cancel_at: int | None, seen: int) -> None:
    with enabled_fake_cuda() as fake:
        assert len(replay_with_callbacks(0, cancel_at)) == seen
        live, violations = fake.live(), fake.violations()

    assert (live.allocations, live.events, live.graphs, live.graph_execs) == (0, 0, 0, 0)
    assert not violations


def test_memcheck_without_compute_sanitizer_is_missing(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, ("compute-sanitizer-that-is-not-there", sys.executable))
    (stage,) = choose_stages(["core-memcheck"])

    result = run_stage(stage, settings, 5, tmp_path / "log", print)

    assert result.status == "missing"
    assert "compute-sanitizer-that-is-not-there cannot be run" in result.why
