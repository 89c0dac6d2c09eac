"""The command line of the run-book: prepare, run, collect, pages."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .carrying.calls import Call, Limits, Plan
from .carrying.kits import read_manifest
from .carrying.receiving import Store
from .running.child import run_child
from .running.report import Report
from .running.run import run_stages
from .running.settings import PACKAGE, ROOT, Settings
from .running.stage import Stage, run_stage
from .stages import STAGES, choose_stages, left_to_run

__all__ = ["describe_plan", "main"]

MIB = 1 << 20
REHEARSAL_PATIENCE = 10
_STORE = Path(tempfile.gettempdir()) / "vdmrt-gpu-day"


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 done, 1 a stage failed or missed a figure, 2 misuse."""
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

    work = arguments.work.resolve()
    asked = Preparation(work, arguments.golden.resolve(), arguments.kit, large=not arguments.small)
    kits = list(read_manifest(work)) if arguments.again else make(asked)
    largest, tree = round(arguments.piece_mib * MIB), carried_tree_nbytes()
    limits = Limits(largest, tree, arguments.budget_s, arguments.call_s, arguments.start_s)
    stages = left_to_run(choose_stages(arguments.stages), _ended(work))
    plan = lay_calls(work, kits, stages, limits)
    for what, why in asked.failed.items():
        print(f"left out: {what}: {why}")
    print(describe_plan(plan, limits, work, arguments.out))
    return 0


def describe_plan(plan: Plan, limits: Limits, work: Path, out: str) -> str:
    """Return the list of calls for people: what each carries, runs and may take, and its command."""
    folder = work.relative_to(ROOT) if work.is_relative_to(ROOT) else work
    lines = [f"tree {limits.tree_nbytes / MIB:.1f} MiB, {limits.room_nbytes / MIB:.1f} MiB of pieces fit beside it"]
    lines += [f"not run: {name}: {why}" for name, why in plan.left_out.items()]
    for number, call in enumerate(plan.calls, 1):
        carried = f"{(call.nbytes + limits.tree_nbytes) / MIB:.1f} MiB with the tree"
        seconds = f"at most {call.budget_s:.0f} s, transfer about {limits.transfer_s(call.nbytes):.0f} s"
        lines += ["", f"call {number}: carries {folder}/call-{number} ({carried}); {seconds}"]
        lines += [f"  stages: {', '.join(stage.name for stage in call.stages) or 'none, it only carries'}"]
        text = call_command(call, folder, number, out)
        if len(text) > limits.text_chars:
            raise ValueError(
                f"the command of call {number} has {len(text)} characters, {limits.text_chars} are allowed"
            )
        lines += [f"  {text}"]
    lines += ["", f"all: {len(plan.calls)} calls, {plan.seconds:.0f} of {limits.total_s:.0f} s, the start included"]
    lines += [
        f"after each call: cp <what came back>/report.json {folder}/report.json",
        "if the machine is lost: prepare --again --budget-s <seconds left>, and go on with its calls",
    ]
    return "\n".join(lines)


def call_command(call: Call, folder: Path, number: int, out: str) -> str:
    """Return the command of a call, to be run in the root of the tree on the device."""
    names = ",".join(stage.name for stage in call.stages)
    words = [
        "mkdir -p .dev && ln -sfn .. .dev/vdmrt &&",
        'PYTHONPATH="$PWD/.dev" python3',
        str(PACKAGE.relative_to(ROOT)),
    ]
    words += ["run", "--pieces", str(folder / f"call-{number}"), "--out", out, "--budget-s", f"{call.budget_s:.0f}"]
    words += ["--stages", names or "none"]
    return " ".join(words)


def run(arguments: argparse.Namespace) -> int:
    """Receive pieces, run stages, print the table last."""
    store, folders = Store(arguments.store.resolve()), _piece_folders(arguments)
    stages = [] if arguments.stages == "none" else choose_stages(arguments.stages)
    if arguments.rehearse:  # it is to find errors, not slowness
        stages = [replace(stage, limit_s=REHEARSAL_PATIENCE * stage.limit_s) for stage in stages]
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
        arguments.budget_s * (REHEARSAL_PATIENCE if arguments.rehearse else 1),
        has_kit=store.has,
    )
    report.save()
    return _print_table(report, stages, waiting)


def _open_report(arguments: argparse.Namespace, store: Store, folders: Sequence[Path], settings: Settings) -> Report:
    earlier = next((folder / "report.json" for folder in folders if (folder / "report.json").is_file()), None)
    if arguments.rehearse:
        return Report(store.path / "rehearsal.json", settings, copies=arguments.out)
    report = Report(store.path / "report.json", settings, earlier=earlier, copies=arguments.out)
    if report.goes_on_elsewhere:
        report.lose(stage.name for stage in STAGES if stage.on_machine)
    return report


def _print_table(report: Report, stages: Sequence[Stage], waiting: Mapping[str, str]) -> int:
    lines = [*report.lines(report.document["stages"])]
    print("\n".join([*lines, *(f"{name}: not run: {why}" for name, why in waiting.items())]))
    bad = {"missed", "failed", "timed out"}
    return int(any(report.document["stages"].get(stage.name, {}).get("status") in bad for stage in stages))


def make_settings(arguments: argparse.Namespace, store: Store) -> Settings:
    """Return what the stages share."""
    base, work = store.kit_path("base"), arguments.work.resolve()
    golden = base / "golden"
    rehearsed = work / "made" / "small_xl"
    return Settings(
        device="cpu" if arguments.rehearse else arguments.device,
        rehearse=arguments.rehearse,
        golden=str(golden if golden.is_dir() else ROOT / "tests" / "data" / "golden"),
        bundles=str(base / "bundles"),
        xl=str(rehearsed if arguments.rehearse and rehearsed.is_dir() else base / "xl"),
        kits=str(base.parent),
        work=str(store.path / "work"),
        reference=None,
        interpreters=store.interpreters(rehearse=arguments.rehearse, rtx_site=work / "site"),
    )


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


def _ended(work: Path) -> Callable[[str], bool]:
    """Return whether a stage ended, by the report that came back."""
    settings = Settings("", False, "", "", "", "", "", None, {})
    return Report(work / "report.json", settings).ended


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="gpu_day", description="A day with a GPU: see README.md beside this file.")
    verbs = parser.add_subparsers(required=True, metavar="prepare|run|collect|pages")
    results = ROOT / "benchmarks" / "results"

    def verb(name: str, function: Callable[[argparse.Namespace], int], what: str) -> Callable[..., object]:
        made = verbs.add_parser(name, help=what, description=function.__doc__)
        made.set_defaults(function=function)
        made.add_argument("--work", type=Path, default=ROOT / ".gpu_day", help="folder of what is made and carried")
        return made.add_argument

    add = verb("prepare", prepare, "make what must travel, print the calls")
    add("--kit", type=Path, help="folder of the scripts that pack ONNX Runtime CUDA and TensorRT 8.5.3")
    add("--golden", type=Path, default=ROOT / "tests" / "data" / "golden", help="folder of recorded cases")
    add("--piece-mib", type=float, default=64, help="what one transfer takes, the tree counted")
    add("--budget-s", type=float, default=840, help="seconds of the day")
    add("--call-s", type=float, default=600, help="longest command")
    add("--start-s", type=float, default=90, help="what the machine's start takes")
    add("--out", default="gpu_day_out", help="folder on the device that is brought back, as its shell names it")
    add("--stages", type=_names, help="names with commas between; all without this")
    add("--small", action="store_true", help="leave XL/2 out")
    add("--again", action="store_true", help="make nothing, lay the calls of what has not ended anew")
    add = verb("run", run, "run stages; on the device, or here with --rehearse")
    add("--pieces", action="append", help="folder that was carried; repeatable")
    add("--stages", type=_names, help="names with commas between, or none; all without this")
    add("--budget-s", type=float, default=840, help="seconds after which no stage is started and the last is ended")
    add("--store", type=Path, default=_STORE, help="folder that keeps everything from call to call")
    add("--out", type=Path, help="folder that gets a copy of report.json, .txt and .log")
    add("--again", action="store_true", help="run the named stages again")
    add("--device", default="cuda:0", help="the GPU")
    add("--rehearse", action="store_true", help="run the same code on the CPU, in small, to find its errors")
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
