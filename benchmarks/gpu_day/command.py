"""The command line of the run-book: prepare, run, keep, collect, pages."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .carrying.calls import Call, Limits, Plan
from .carrying.kits import read_manifest
from .carrying.receiving import Store
from .running.child import run_child
from .running.origin import find_origin
from .running.report import Report, has_ended, read_report
from .running.run import ENDED_EARLIER, run_stages
from .running.settings import PACKAGE, REFERENCE, ROOT, Settings
from .running.stage import Stage, run_stage
from .stages import STAGES, choose_stages, left_to_run

__all__ = ["describe_plan", "main"]

MIB = 1 << 20
REHEARSAL_PATIENCE = 10
NOTHING_RAN = 3
WORK, PREPARED = ROOT / ".gpu_day", "prepared.json"
HERE = ".venv/bin/python benchmarks/gpu_day"
PREPARE_DEFAULTS: dict[str, Any] = {
    "kit": None,
    "golden": str(ROOT / "tests" / "data" / "golden"),
    "piece_mib": 64.0,
    "budget_s": 840.0,
    "call_s": 600.0,
    "start_s": 90.0,
    "out": None,
    "small": False,
}
_STORE = Path(tempfile.gettempdir()) / "vdmrt-gpu-day"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 done, 1 a stage failed or missed a figure, 2 misuse, 3 a call ran nothing."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["child"]:
        return run_child(words[1:])
    arguments = parse_arguments(words)
    try:
        done: int = arguments.function(arguments)
    except ValueError as error:
        print(f"gpu_day: {error}", file=sys.stderr)
        return 2
    return done


def prepare(arguments: argparse.Namespace) -> int:
    """Make everything, and print the calls."""
    from .carrying.prepare import Preparation, carried_tree_nbytes, lay_calls
    from .carrying.prepare import prepare as make
    from .collecting.keeping import archive_report

    work = arguments.work.resolve()
    asked = complete_arguments(arguments, work)
    if not arguments.again and (old := archive_report(work)):
        print(f"the report of an earlier day is now {old}")
    made = Preparation(work, Path(asked["golden"]), asked["kit"] and Path(asked["kit"]), large=not asked["small"])
    kits = list(read_manifest(work)) if arguments.again else make(made)
    tree = carried_tree_nbytes()
    limits = Limits(round(asked["piece_mib"] * MIB), tree, asked["budget_s"], asked["call_s"], asked["start_s"])
    stages, ended = _stages_to_lay(arguments, asked, work)
    plan = lay_calls(work, kits, stages, limits)
    plan.left_out.update(ended)
    for what, why in made.failed.items():
        print(f"left out: {what}: {why}")
    print(describe_plan(plan, limits, work, asked["out"], named=bool(arguments.stages)))
    return 0


def complete_arguments(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return the arguments of a preparation: given ones, with --again those of the preparation before, defaults.

    They are stored in ``work`` for the next --again.

    Raises:
        ValueError: There is no preparation for --again, or a number makes no sense.
    """
    stored = work / PREPARED
    if arguments.again and not ((work / "manifest.json").is_file() and stored.is_file()):
        raise ValueError(f"nothing is prepared in {work}: run prepare without --again first")
    given = {key: getattr(arguments, key) for key in PREPARE_DEFAULTS if getattr(arguments, key) is not None}
    earlier = json.loads(stored.read_text()) if arguments.again else {}
    asked: dict[str, Any] = PREPARE_DEFAULTS | earlier | given
    check_seconds(asked, "budget_s", "call_s", "piece_mib", "start_s")
    if asked["out"] == "":
        raise ValueError("--out is empty; name the folder on the device that is brought back, or leave --out away")
    if not Path(asked["golden"]).is_dir():
        raise ValueError(f"--golden {asked['golden']} is not a folder; name the folder of recorded cases")
    asked |= {key: str(Path(asked[key]).resolve()) for key in ("golden", "kit") if asked[key]}
    work.mkdir(parents=True, exist_ok=True)
    stored.write_text(json.dumps(asked, indent=1) + "\n")
    return asked


def check_seconds(asked: Mapping[str, Any], *names: str) -> None:
    """See that numbers are finite and positive.

    Raises:
        ValueError: One is not.
    """
    for name in names:
        if not 0 < asked[name] < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} is {asked[name]:g}; give a number above 0")


def _stages_to_lay(
    arguments: argparse.Namespace, asked: Mapping[str, Any], work: Path
) -> tuple[list[Stage], dict[str, str]]:
    """Return the stages to plan, and why others are not: named ones always run, even where they have ended."""
    chosen, why = choose_stages(arguments.stages), {}
    if asked["small"]:
        why = {stage.name: "--small leaves XL/2 out" for stage in chosen if stage.full_size}
    report = work / "report.json"
    if not arguments.stages and report.is_file():
        document = read_report(report)
        left = left_to_run(chosen, lambda name: has_ended(document, name))
        why |= {
            stage.name: f"has ended already ({document['stages'][stage.name]['status']})"
            if has_ended(document, stage.name)
            else "no later stage needs it"
            for stage in chosen
            if stage not in left and stage.name not in why
        }
    return [stage for stage in chosen if stage.name not in why], why


def describe_plan(plan: Plan, limits: Limits, work: Path, out: str | None, *, named: bool = False) -> str:
    """Return the list of calls for people: what each carries, runs and may take, and its command.

    Args:
        plan: The calls.
        limits: Of the machine.
        work: Folder of the calls.
        out: Folder on the device that is brought back; None for its variable OUT.
        named: Whether the stages were named, so that they run though they have ended.
    """
    folder = work.relative_to(ROOT) if work.is_relative_to(ROOT) else work
    lines = [f"tree {limits.tree_nbytes / MIB:.1f} MiB, {limits.room_nbytes / MIB:.1f} MiB of pieces fit beside it"]
    lines += [f"not run: {name}: {why}" for name, why in plan.left_out.items()]
    for number, call in enumerate(plan.calls, 1):
        carried = f"{(call.nbytes + limits.tree_nbytes) / MIB:.1f} MiB with the tree"
        seconds = f"transfer about {limits.transfer_s(call.nbytes):.0f} s, timeout {limits.timeout_s(call):.0f} s"
        lines += ["", f"call {number}: carries {folder}/call-{number} ({carried}); {seconds}"]
        lines += [f"  stages: {', '.join(stage.name for stage in call.stages) or 'none, it only carries'}"]
        text = call_command(call, folder, number, out, named=named)
        if len(text) > limits.text_chars:
            raise ValueError(
                f"the command of call {number} has {len(text)} characters, {limits.text_chars} are allowed"
            )
        lines += [f"  {text}"]
    home = "" if work == WORK else f" --work {shlex.quote(str(folder))}"
    again = f"{HERE} prepare --again --budget-s <seconds left>{home}"
    lines += [
        "",
        f"all: {len(plan.calls)} calls, {plan.seconds:.0f} of {limits.total_s:.0f} s, start and turnarounds included",
        f"after each call: {HERE} keep <what came back>/report.json{home}",
        f"after exit status 3 (it says why) or a lost machine: {again}",
        "  and continue with the calls that it prints",
    ]
    return "\n".join(lines)


def call_command(call: Call, folder: Path, number: int, out: str | None, *, named: bool = False) -> str:
    """Return the command of a call, to be run in the root of the tree on the device."""
    names = ",".join(stage.name for stage in call.stages)
    words = [
        "mkdir -p .dev && ln -sfn .. .dev/vdmrt &&",
        'PYTHONPATH="$PWD/.dev" python3',
        str(PACKAGE.relative_to(ROOT)),
    ]
    words += ["run", "--pieces", str(folder / f"call-{number}"), *(["--out", out] if out else [])]
    words += ["--budget-s", f"{call.budget_s:.0f}", "--stages", names or "none", *(["--again"] if named else [])]
    return " ".join(words)


def run(arguments: argparse.Namespace) -> int:
    """Receive pieces, run stages, print the table last; 3 where a call ran nothing or its machine is another."""
    begun = time.monotonic()
    check_seconds(vars(arguments), "budget_s")
    stages = [] if arguments.stages == "none" else choose_stages(arguments.stages)
    if arguments.out is None and not arguments.rehearse:
        arguments.out = Path(os.environ.get("OUT") or "gpu_day_out")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    store, folders = Store(arguments.store.resolve()), _piece_folders(arguments)
    for folder in folders:
        if not (folder / "manifest.json").is_file():
            print(f"nothing ran: {folder} has no manifest.json: not carried; name it for the transfer too")
            return NOTHING_RAN
    patience = REHEARSAL_PATIENCE if arguments.rehearse else 1  # it is to find errors, not slowness
    stages = [replace(stage, limit_s=patience * stage.limit_s) for stage in stages]
    for folder in folders:
        for name in store.receive(folder):
            print(f"kit {name} is unpacked", file=sys.stderr, flush=True)
    settings = make_settings(arguments, store)
    report = _open_report(arguments, store, folders, settings)
    report.forget(stage.name for stage in stages if arguments.again or arguments.rehearse)
    log = report.path.with_suffix(".log")
    waiting = run_stages(
        stages,
        report,
        lambda stage, limit_s, on_change: run_stage(stage, settings, limit_s, log, on_change),
        patience * arguments.budget_s - (time.monotonic() - begun),
        has_kit=store.has,
    )
    report.save()
    status = _print_table(report, stages, waiting, store.failed)
    return _why_nothing(store, folders, stages, waiting) or status


def _open_report(arguments: argparse.Namespace, store: Store, folders: Sequence[Path], settings: Settings) -> Report:
    earlier = next((folder / "report.json" for folder in folders if (folder / "report.json").is_file()), None)
    if arguments.rehearse:
        return Report(store.path / "rehearsal.json", settings, copies=arguments.out)
    report = Report(
        store.path / "report.json", settings, earlier=earlier, copies=arguments.out, origin=find_origin(folders)
    )
    if report.goes_on_elsewhere:
        report.lose(stage.name for stage in STAGES if stage.on_machine)
    return report


def _print_table(report: Report, stages: Sequence[Stage], waiting: Mapping[str, str], failed: Mapping[str, str]) -> int:
    lines = [*report.lines(report.document["stages"])]
    lines += [f"{name}: not run: {why}" for name, why in waiting.items()]
    lines += [f"not run: kit {name}: {why}" for name, why in failed.items()]
    print("\n".join(lines))
    bad = {"missed", "failed", "timed out"}
    return int(
        bool(failed) or any(report.document["stages"].get(stage.name, {}).get("status") in bad for stage in stages)
    )


def _why_nothing(store: Store, folders: Sequence[Path], stages: Sequence[Stage], waiting: Mapping[str, str]) -> int:
    """Print why a call is of no use, and return its exit status; 0 where it ran something or had ended before."""
    lacking = [name for folder in folders for name in store.lacks(folder)]
    if lacking:
        print(f"fresh machine: {len(lacking)} pieces of earlier calls are not here; run prepare --again")
        return NOTHING_RAN
    if stages and len(waiting) == len(stages) and set(waiting.values()) != {ENDED_EARLIER}:
        print(f"nothing ran: {next(why for why in waiting.values() if why != ENDED_EARLIER)}")
        return NOTHING_RAN
    return 0


def make_settings(arguments: argparse.Namespace, store: Store) -> Settings:
    """Return what the stages share."""
    base, work = store.kit_path("base"), arguments.work.resolve()
    golden, reference = base / "golden", base / "reference" / REFERENCE
    rehearsed = work / "made" / "small_xl"
    return Settings(
        device="cpu" if arguments.rehearse else arguments.device,
        rehearse=arguments.rehearse,
        golden=str(golden if golden.is_dir() else ROOT / "tests" / "data" / "golden"),
        bundles=str(base / "bundles"),
        xl=str(rehearsed if arguments.rehearse and rehearsed.is_dir() else base / "xl"),
        kits=str(base.parent),
        work=str(store.path / "work"),
        reference=str(reference) if reference.is_file() else None,
        interpreters=store.interpreters(rehearse=arguments.rehearse, rtx_site=work / "site"),
    )


def keep(arguments: argparse.Namespace) -> int:
    """Merge a returned report into that of the day."""
    from .collecting.keeping import keep_report

    print(f"merged into {keep_report(arguments.report, arguments.work.resolve())}")
    return 0


def collect(arguments: argparse.Namespace) -> int:
    """Merge reports into the results, and write the pages anew."""
    from .collecting.merge import merge_report
    from .collecting.pages import write_pages

    for report in arguments.reports:
        print(f"merged into {merge_report(report, arguments.results, arguments.record)}")
    return write_pages(ROOT, arguments.results, check=False)


def pages(arguments: argparse.Namespace) -> int:
    """Write the generated blocks anew, or see whether they are as they would be."""
    from .collecting.pages import write_pages

    return write_pages(ROOT, arguments.results, check=arguments.check)


def _piece_folders(arguments: argparse.Namespace) -> list[Path]:
    if arguments.pieces:
        return [Path(path) for path in arguments.pieces]
    return sorted(arguments.work.resolve().glob("call-*")) if arguments.rehearse else []


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="gpu_day", description="A day with a GPU: see README.md beside this file.")
    verbs = parser.add_subparsers(required=True, metavar="prepare|run|keep|collect|pages")
    results = ROOT / "benchmarks" / "results"

    def verb(name: str, function: Callable[[argparse.Namespace], int], what: str) -> Callable[..., object]:
        made = verbs.add_parser(name, help=what, description=function.__doc__)
        made.set_defaults(function=function)
        made.add_argument("--work", type=Path, default=WORK, help="folder of what is made and carried")
        return made.add_argument

    add = verb("prepare", prepare, "make what must travel, print the calls")
    add("--kit", help="folder of the scripts that pack ONNX Runtime CUDA and TensorRT 8.5.3")
    add("--golden", help="folder of recorded cases")
    add("--piece-mib", type=float, help="what one transfer takes, the tree counted; 64 without this")
    add("--budget-s", type=float, help="seconds of the day; 840 without this")
    add("--call-s", type=float, help="longest command; 600 without this")
    add("--start-s", type=float, help="what the machine's start takes; 90 without this")
    add("--out", help="folder on the device that is brought back, as its shell names it; its OUT without this")
    add("--stages", type=_names, help="names with commas between; all without this")
    add("--small", action="store_true", default=None, help="leave XL/2 out")
    add(
        "--again",
        action="store_true",
        help="make nothing, plan the calls of what has not ended, other options as before",
    )
    add = verb("run", run, "run stages; on the device, or here with --rehearse")
    add("--pieces", action="append", help="folder that was carried; repeatable")
    add("--stages", type=_names, help="names with commas between, or none; all without this")
    add("--budget-s", type=float, default=840, help="seconds after which no stage is started and the last is ended")
    add("--store", type=Path, default=_STORE, help="folder that keeps everything from call to call")
    add("--out", type=_folder, help="folder that gets a copy of report.json, .txt and .log; $OUT without this")
    add("--again", action="store_true", help="run the named stages again")
    add("--device", default="cuda:0", help="the GPU")
    add("--rehearse", action="store_true", help="run the same code on the CPU, in small, to find its errors")
    add = verb("keep", keep, "merge a returned report into that of the day")
    add("report", type=Path, help="report.json of a call")
    add = verb("collect", collect, "merge reports into the results, write the pages")
    add("reports", type=Path, nargs="+", help="report.json of a day")
    add("--results", type=Path, default=results, help="folder of the records")
    add("--record", help="name of the record; by the GPU without this")
    add = verb("pages", pages, "write the generated blocks of README.md and docs/benchmarks.md")
    add("--results", type=Path, default=results, help="folder of the records")
    add("--check", action="store_true", help="write nothing; exit with 1 where a block is not as it would be")
    return parser.parse_args(argv)


def _names(text: str) -> list[str] | str:
    return text if text == "none" else text.split(",")


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; name a folder")
    return Path(text)
