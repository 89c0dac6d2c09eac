"""A GPU day, rehearsed: calls, transfers, a budget that ends, a machine that is lost; on a recorded clock."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from vdmrt.benchmarks.gpu_day.carrying.archive import cut, pack
from vdmrt.benchmarks.gpu_day.carrying.calls import Call, Limits, plan_calls
from vdmrt.benchmarks.gpu_day.carrying.kits import Archive, Kit, Piece, write_manifest
from vdmrt.benchmarks.gpu_day.carrying.making import made_key
from vdmrt.benchmarks.gpu_day.carrying.prepare import Shelf, carried_tree_nbytes, lay_calls
from vdmrt.benchmarks.gpu_day.carrying.receiving import Store
from vdmrt.benchmarks.gpu_day.checks.golden import read_reference
from vdmrt.benchmarks.gpu_day.command import (
    complete_arguments,
    describe_plan,
    main,
    make_settings,
    parse_arguments,
)
from vdmrt.benchmarks.gpu_day.running.report import Report
from vdmrt.benchmarks.gpu_day.running.run import run_stages
from vdmrt.benchmarks.gpu_day.running.settings import REFERENCE, Settings
from vdmrt.benchmarks.gpu_day.running.stage import Result, Stage
from vdmrt.benchmarks.gpu_day.stages import STAGES, choose_stages, left_to_run

MIB = 1 << 20
SETTINGS = Settings("cuda:0", False, "", "", "", "", "", None, {})
# Estimates of the kits' sizes, in pieces of 1 MiB: no figures, only of an order that gives the plan something to do.
KIT_MIB = {"base": 8, "rtx": 67, "eight-bits": 15, "onnxruntime": 60, "tensorrt": 240}
UNPACK_S = {"base": 5.0, "rtx": 5.0, "eight-bits": 5.0, "onnxruntime": 10.0, "tensorrt": 20.0}
# What every rehearsed stage takes, in seconds of the recorded clock: a third of its limit.
SHARE = 3


class MachineLost(Exception):
    """The GPU machine went away."""


@dataclass
class Clock:
    """A clock that only moves when a rehearsed stage takes time."""

    now: float = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Machine:
    """A double of the GPU machine: an empty folder, and stages that record a figure and let time pass."""

    def __init__(self, folder: Path, clock: Clock, *, lost_in: str | None = None) -> None:
        self.store, self.clock, self.lost_in = Store(folder), clock, lost_in
        self.ran: list[str] = []

    def call(self, carried: Path, call: Call, back: Path) -> dict[str, str]:
        """Do what ``run`` does there; what is copied to ``back`` comes back only where the machine is not lost."""
        self.store.receive(carried)
        report = Report(self.store.path / "report.json", SETTINGS, earlier=carried / "report.json", copies=back)
        if report.goes_on_elsewhere:
            report.lose(stage.name for stage in STAGES if stage.on_machine)
        return run_stages(
            call.stages, report, self.launch, call.budget_s, has_kit=self.store.has, clock=self.clock
        )  # fmt: skip

    def launch(self, stage: Stage, left: float, on_change: Callable[[list[dict[str, Any]]], None]) -> Result:
        """Record a figure, take a third of the limit."""
        on_change([{"what": stage.name, "value": 1.0}])
        if stage.name == self.lost_in:
            raise MachineLost
        seconds = min(stage.limit_s / SHARE, left)
        self.clock.now += seconds
        self.ran.append(stage.name)
        return Result("held", seconds, "", [{"what": stage.name, "value": 1.0}])


def sized_kits() -> list[Kit]:
    """Return kits of the estimated sizes, without their bytes."""
    kits = []
    for name, mib in KIT_MIB.items():
        pieces = tuple(Piece(f"{name}-{at:03d}.piece", MIB, "") for at in range(mib))
        kits.append(Kit(name, (Archive(name, mib * MIB, "", pieces),), UNPACK_S[name]))
    return kits


def small_kits(work: Path) -> list[Kit]:
    """Pack kits of some kilobytes, cut into pieces of two."""
    kits = []
    for name in KIT_MIB:
        (work / name).write_bytes(os.urandom(5000))
        archive = pack({f"lib/{name}.so": work / name}, work / f"{name}.tar.xz")
        kits.append(Kit(name, (cut(archive, name, work / "pieces", 2048),)))
    write_manifest(work, kits)
    return kits


def small_limits(**given: float) -> Limits:
    """Return limits under which the small kits take several calls."""
    return replace(Limits(7000, 1000, spare_nbytes=0, link_nbytes_s=1e6), **given)  # type: ignore[arg-type]


def day(work: Path, machine: Machine, stages: Sequence[Stage], **given: float) -> list[dict[str, str]]:
    """Prepare and run a day; what comes back of each call is laid where a fresh machine goes on from."""
    waiting = []
    kits = small_kits(work) if not (work / "manifest.json").is_file() else list(Store(work).kits)
    plan = lay_calls(work, kits, stages, small_limits(**given))
    for number, call in enumerate(plan.calls, 1):
        back = work / f"back-{number}"
        waiting.append(machine.call(work / f"call-{number}", call, back))
        (work / "report.json").write_bytes((back / "report.json").read_bytes())
    return waiting


def statuses(path: Path) -> dict[str, str]:
    """Return how each stage of a report ended."""
    return {name: stage["status"] for name, stage in json.loads(path.read_text())["stages"].items()}


def test_the_whole_day_runs_every_stage_in_order_within_its_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "device", Clock())

    waiting = day(tmp_path, machine, STAGES, total_s=2000)

    assert machine.ran == [stage.name for stage in STAGES]
    assert set(statuses(tmp_path / "report.json").values()) == {"held"}
    assert machine.clock.now <= 840
    assert not any(waiting)


def test_a_machine_that_is_lost_keeps_what_came_back_and_a_fresh_one_goes_on(tmp_path: Path) -> None:
    clock = Clock()
    first = Machine(tmp_path / "first", clock, lost_in="golden-onnxruntime")
    with pytest.raises(MachineLost):
        day(tmp_path, first, STAGES, total_s=2000)
    kept = statuses(tmp_path / "report.json")
    left = left_to_run(STAGES, Report(tmp_path / "report.json", SETTINGS).ended)
    second = Machine(tmp_path / "second", clock)

    day(tmp_path, second, left, total_s=2000)

    assert set(kept.values()) == {"held"} and "golden-onnxruntime" not in kept
    assert [name for name in second.ran if name in kept] == ["weights-28", "rtx-build-28"]
    assert set(statuses(tmp_path / "report.json")) == {stage.name for stage in STAGES}


def test_a_run_that_was_killed_goes_on_on_the_same_machine(tmp_path: Path) -> None:
    path, clock = tmp_path / "report.json", Clock()
    machine = Machine(tmp_path / "device", clock, lost_in="rtx-cases")
    stages = choose_stages(["environment", "rtx-verdict", "rtx-cases", "ceilings"])
    with pytest.raises(MachineLost):
        run_stages(stages, Report(path, SETTINGS), machine.launch, 500, clock=clock)
    assert statuses(path) == {"environment": "held", "rtx-verdict": "held", "rtx-cases": "running"}
    machine.lost_in = None

    waiting = run_stages(stages, Report(path, SETTINGS), machine.launch, 500, clock=clock)

    assert machine.ran == ["environment", "rtx-verdict", "rtx-cases", "ceilings"]
    assert waiting == {name: "has ended in an earlier run" for name in ("environment", "rtx-verdict")}


def test_a_budget_that_ends_keeps_what_ran_and_names_what_did_not(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "device", Clock())
    report = Report(tmp_path / "report.json", SETTINGS)

    waiting = run_stages(STAGES, report, machine.launch, 60, clock=machine.clock)

    assert machine.ran == [stage.name for stage in STAGES[: len(machine.ran)]]
    assert set(waiting) == {stage.name for stage in STAGES[len(machine.ran) :]}
    assert set(waiting.values()) == {"the budget of 60 s is spent"}
    assert machine.clock.now <= 60


def test_the_last_stage_gets_what_is_left_of_the_budget(tmp_path: Path) -> None:
    given: list[float] = []

    def launch(stage: Stage, left: float, on_change: Any) -> Result:
        given.append(left)
        return Result("held", 0.0, "", [])

    run_stages([Stage("a", "", "", limit_s=100)], Report(tmp_path / "r.json", SETTINGS), launch, 30, clock=Clock())

    assert given == [30]


def test_a_stage_waits_for_its_kit(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "device", Clock())
    report = Report(tmp_path / "report.json", SETTINGS)

    waiting = run_stages(
        choose_stages(["environment", "rtx-verdict"]), report, machine.launch, 60, has_kit=lambda name: name == "base"
    )

    assert machine.ran == ["environment"]
    assert waiting == {"rtx-verdict": "kit rtx has not arrived whole"}


def test_the_day_as_it_is_fits_its_bytes_its_seconds_and_two_calls_for_the_first_question() -> None:
    limits = Limits(64 * MIB, carried_tree_nbytes())

    plan = plan_calls(sized_kits(), STAGES, limits)

    by_stage = {stage.name: number for number, call in enumerate(plan.calls, 1) for stage in call.stages}
    assert all(call.nbytes + limits.tree_nbytes + limits.spare_nbytes <= 64 * MIB for call in plan.calls)
    assert all(call.budget_s <= limits.call_s for call in plan.calls)
    assert set(plan.left_out) == {
        "build-tensorrt",
        "golden-tensorrt",
        "rollout-tensorrt",
        "weights-4",
        "xl-4",
        "core-memcheck-lanes",
    }
    assert max(by_stage[name] for name in ("rtx-verdict", "rtx-cases", "rtx-build-28", "xl-28")) <= 2
    assert by_stage.keys() | plan.left_out.keys() == {stage.name for stage in STAGES}


def test_the_list_of_calls_says_bytes_seconds_and_commands_of_a_bounded_length(tmp_path: Path) -> None:
    limits = Limits(64 * MIB, 20 * MIB)
    plan = plan_calls(sized_kits(), STAGES, limits)

    text = describe_plan(plan, limits, tmp_path, "back")

    assert "call 1: carries" in text and "MiB with the tree)" in text
    assert f"all: {len(plan.calls)} calls, {plan.seconds:.0f} of 840 s" in text
    assert text.count(", timeout ") == len(plan.calls)
    commands = [line for line in text.splitlines() if "python3 benchmarks/gpu_day run" in line]
    assert len(commands) == len(plan.calls)
    assert all("--out back" in line and len(line) <= 2000 for line in commands)


def test_a_kit_that_takes_many_calls_is_left_out_before_what_runs_without_it() -> None:
    plan = plan_calls(sized_kits(), STAGES, Limits(64 * MIB, 20 * MIB, total_s=800))

    assert plan.left_out["rollout-tensorrt"] == "the day has 800 s"
    assert {"core-memcheck", "host-overhead", "ceilings"}.isdisjoint(plan.left_out)
    assert all(call.stages for call in plan.calls)
    assert not any(piece.name.startswith("tensorrt") for call in plan.calls for piece in call.pieces)


def test_a_call_that_would_only_carry_runs_what_needs_nothing_more() -> None:
    kits = [kit for kit in sized_kits() if kit.name in ("base", "tensorrt")]

    plan = plan_calls(
        kits,
        choose_stages(["build-tensorrt", "golden-tensorrt", "host-overhead", "ceilings"]),
        Limits(64 * MIB, 20 * MIB),
    )

    assert not plan.left_out
    carrying = next(call for call in plan.calls if call.pieces and call.pieces[-1].name.startswith("tensorrt"))
    assert [stage.name for stage in carrying.stages] == ["ceilings", "host-overhead"]


def test_the_time_between_calls_is_counted() -> None:
    limits = Limits(64 * MIB, 20 * MIB, total_s=2000)

    plan = plan_calls(sized_kits(), STAGES, limits)
    quick = plan_calls(sized_kits(), STAGES, replace(limits, turn_s=0))

    assert plan.seconds - quick.seconds == pytest.approx(12 * len(plan.calls))


def test_a_kit_that_was_not_made_leaves_its_stages_out() -> None:
    kits = [kit for kit in sized_kits() if kit.name in ("base", "rtx")]

    plan = plan_calls(kits, STAGES, Limits(64 * MIB, 20 * MIB))

    assert plan.left_out["golden-tensorrt"] == "kit tensorrt was not made"
    assert "xl-28" in {stage.name for call in plan.calls for stage in call.stages}


def test_a_tree_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the tree takes 63\.0 of 64 MiB: no room for a piece of 1\.0 MiB"):
        plan_calls(sized_kits(), STAGES, Limits(64 * MIB, 63 * MIB))


def test_pieces_come_together_over_calls_byte_for_byte(tmp_path: Path) -> None:
    kits = small_kits(tmp_path)
    plan = lay_calls(tmp_path, kits, STAGES, small_limits(total_s=2000))
    store = Store(tmp_path / "device")

    unpacked = [store.receive(tmp_path / f"call-{number}") for number in range(1, len(plan.calls) + 1)]

    assert {name for names in unpacked for name in names} == set(KIT_MIB)
    assert len(plan.calls) > 3
    for name in KIT_MIB:
        assert (store.kit_path(name) / "lib" / f"{name}.so").read_bytes() == (tmp_path / name).read_bytes()


def test_a_damaged_piece_leaves_the_good_ones_and_the_other_kits(tmp_path: Path) -> None:
    small_kits(tmp_path)
    piece = tmp_path / "pieces" / "rtx-001.piece"
    piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    write_manifest(tmp_path / "pieces", Store(tmp_path).kits)
    store = Store(tmp_path / "device")

    unpacked = store.receive(tmp_path / "pieces")

    assert unpacked == [name for name in KIT_MIB if name != "rtx"]
    assert "rtx-001.piece arrived damaged: its SHA-256 is not" in store.failed["rtx"]
    assert (store.path / "pieces" / "rtx-002.piece").is_file() and not (store.path / "pieces" / piece.name).exists()


def test_an_installer_that_fails_is_named_and_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "unbundle.py").write_text("import sys; print('no space'); sys.exit(5)")
    archive = pack({"unbundle.py": tmp_path / "unbundle.py"}, tmp_path / "a.tar")
    write_manifest(tmp_path / "pieces", [Kit("tensorrt", (cut(archive, "tensorrt", tmp_path / "pieces"),))])

    for _ in range(2):
        store = Store(tmp_path / "device")
        assert store.receive(tmp_path / "pieces") == []
        assert store.failed == {"tensorrt": "its installer failed with status 5: no space"}


def test_the_same_files_pack_to_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a" * 1000)

    first = pack({"x/a": tmp_path / "a"}, tmp_path / "1.tar.xz")
    second = pack({"x/a": tmp_path / "a"}, tmp_path / "2.tar.xz")

    assert first.read_bytes() == second.read_bytes()


def test_a_real_run_receives_runs_and_brings_its_report_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lay_calls(tmp_path, small_kits(tmp_path), STAGES, small_limits(total_s=2000))
    words = ["--pieces", str(tmp_path / "call-1"), "--store", str(tmp_path / "device"), "--out", str(tmp_path / "back")]
    words += ["--work", str(tmp_path), "--rehearse", "--stages", "environment,rtx-verdict"]

    status = main(["run", *words])

    said = capfd.readouterr().out
    assert status == 0, said
    assert statuses(tmp_path / "back" / "rehearsal.json")["environment"] in ("held", "missing")
    assert "rtx-verdict: not run: kit rtx has not arrived whole" in said
    assert (tmp_path / "back" / "rehearsal.txt").is_file() and (tmp_path / "back" / "rehearsal.log").is_file()


def prepared(work: Path, *words: str) -> None:
    """Leave what a preparation without kits leaves."""
    work.mkdir(exist_ok=True)
    write_manifest(work, [])
    complete_arguments(parse_arguments(["prepare", *words]), work)


def test_the_calls_are_planned_again_without_what_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(tmp_path)
    Report(tmp_path / "report.json", SETTINGS).keep("environment", Result("held", 1.0, "", []))

    assert main(["prepare", "--again", "--work", str(tmp_path)]) == 0

    said = capsys.readouterr().out
    assert "stages: ceilings" in said
    assert "not run: environment: has ended already (held)" in said


def test_a_named_stage_runs_again_though_it_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(tmp_path)
    Report(tmp_path / "report.json", SETTINGS).keep("environment", Result("held", 1.0, "", []))

    assert main(["prepare", "--again", "--work", str(tmp_path), "--stages", "environment"]) == 0

    assert "--stages environment --again" in capsys.readouterr().out


def test_planning_again_keeps_the_options_of_the_preparation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared(tmp_path, "--out", "$BACK", "--piece-mib", "50", "--budget-s", "800")

    assert main(["prepare", "--again", "--work", str(tmp_path), "--budget-s", "400"]) == 0

    said = capsys.readouterr().out
    assert "--out $BACK --budget-s" in said and "of 400 s" in said
    assert f"prepare --again --budget-s <seconds left> --work {tmp_path}" in said
    assert json.loads((tmp_path / "prepared.json").read_text())["piece_mib"] == 50


def test_small_models_only_leave_the_full_size_stages_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared(tmp_path, "--small")

    main(["prepare", "--again", "--work", str(tmp_path)])

    said = capsys.readouterr().out
    full = ("weights-28", "rtx-build-28", "xl-28", "xl-28-compiled", "weights-4", "xl-4")
    assert all(f"not run: {name}: --small leaves XL/2 out" in said for name in full)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--budget-s", "nan"], "--budget-s is nan; give a number above 0"),
        (["run", "--budget-s", "0"], "--budget-s is 0; give a number above 0"),
        (["run", "--out", ""], "the name is empty; name a folder"),
        (["prepare", "--budget-s", "-1"], "--budget-s is -1; give a number above 0"),
        (["prepare", "--piece-mib", "-1"], "--piece-mib is -1; give a number above 0"),
        (["prepare", "--out", ""], "--out is empty"),
        (["prepare", "--golden", "nowhere"], "--golden nowhere is not a folder"),
        (["prepare", "--again"], "run prepare without --again first"),
        (["keep", "nowhere.json"], "nowhere.json cannot be read: No such file"),
        (["collect", "nowhere.json"], "nowhere.json cannot be read: No such file"),
        (["collect", "pyproject.toml"], "pyproject.toml is not a report"),
    ],
)
def test_misuse_is_one_sentence(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main([*words, "--work", str(tmp_path)])
    except SystemExit as end:
        status = int(end.code or 0)

    assert status == 2
    assert said in capsys.readouterr().err


def run_call(work: Path, number: int, *words: str) -> int:
    """Run a call as the device does; the report goes to ``work``/back."""
    store, back = str(work / "device"), str(work / "back")
    return main(["run", "--pieces", str(work / f"call-{number}"), "--store", store, "--out", back, *words])


def test_a_call_whose_folder_was_not_carried_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_call(tmp_path, 1, "--stages", "environment") == 3

    assert "call-1 has no manifest.json: not carried" in capsys.readouterr().out


def test_a_call_on_a_fresh_machine_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_calls(tmp_path, small_kits(tmp_path), STAGES, small_limits(total_s=2000))

    assert run_call(tmp_path, 2, "--stages", "none") == 3

    assert "fresh machine: " in capsys.readouterr().out


def test_a_call_that_has_no_time_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_calls(tmp_path, small_kits(tmp_path), STAGES, small_limits(total_s=2000))

    assert run_call(tmp_path, 1, "--stages", "environment", "--budget-s", "1") == 3

    assert "nothing ran: the budget of " in capsys.readouterr().out


def test_what_a_run_finds_goes_where_the_device_brings_it_back_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_calls(tmp_path, small_kits(tmp_path), STAGES, small_limits(total_s=2000))
    monkeypatch.setenv("OUT", str(tmp_path / "brought"))

    main(["run", "--pieces", str(tmp_path / "call-1"), "--store", str(tmp_path / "device"), "--stages", "none"])

    assert (tmp_path / "brought" / "report.json").is_file()


def test_an_interrupted_preparation_keeps_the_kits_it_made(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)

    shelf.add(Kit("onnxruntime", ()))
    shelf.add(Kit("base", ()))

    assert [kit.name for kit in Store(tmp_path).kits] == ["base", "onnxruntime"]


def test_other_recorded_cases_are_made_anew(tmp_path: Path) -> None:
    (tmp_path / "case.json").write_text("1")
    first = made_key(tmp_path)
    (tmp_path / "case.json").write_text("2")

    assert made_key(tmp_path) != first


def test_the_errors_of_the_cpu_come_with_the_base_kit(tmp_path: Path) -> None:
    arguments, store = parse_arguments(["run", "--work", str(tmp_path)]), Store(tmp_path)
    assert make_settings(arguments, store).reference is None
    carried = store.kit_path("base") / "reference" / REFERENCE
    carried.parent.mkdir(parents=True)
    carried.write_text(json.dumps({"stages": {"golden": {"records": [{"what": "an error", "value": 0.5}]}}}))

    assert read_reference(make_settings(arguments, store)) == {"an error": 0.5}


def test_an_unknown_stage_is_named_with_those_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--rehearse", "--stages", "environment,golden"]) == 2

    assert "no stage 'golden'; known are environment, " in capsys.readouterr().err


def test_the_interpreters_of_carried_kits_come_from_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.kit_path("tensorrt") / "store" / "root").mkdir(parents=True)
    (store.kit_path("tensorrt") / "store" / "root" / "env.sh").touch()

    found = store.interpreters(rehearse=False, rtx_site=None)

    assert found["main"] == [sys.executable]
    assert found["rtx"][1].startswith(f"PYTHONPATH={tmp_path / 'kits' / 'rtx'}:")
    assert found["tensorrt"][-1] == "trt310"
    assert found["memcheck"][0] == "compute-sanitizer"
