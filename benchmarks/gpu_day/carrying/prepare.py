"""The preparation: makes what the stages need, packs it into kits, and lays the calls of the day."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ..checks.golden import check_golden
from ..running.origin import COMMIT_FILE, git_commit
from ..running.record import Recorder, read_records
from ..running.settings import REFERENCE, ROOT, Settings
from ..running.stage import Stage
from . import inputs, wheels
from .archive import cut, pack
from .calls import Limits, Plan, plan_calls
from .kits import Kit, write_manifest
from .making import Maker, made_key
from .receiving import BEFORE

__all__ = ["Preparation", "carried_tree_nbytes", "lay_calls", "prepare"]

DEVICE_PYTHON = "3.12"
KITS = ("base", "rtx", "eight-bits", "onnxruntime", "tensorrt")
GOLDEN = ROOT / "tests" / "data" / "golden"
_KIT_CHUNK_MIB = 4
# What the device's image has that a kit needs is named by the kit; these are the parts that it is asked for.
_KIT_PARTS = {"onnxruntime": ("ort", "--ort-sm", "90"), "tensorrt": ("trt,py310,numpy310,cuda310",)}
_KIT_UNPACK_S = {"onnxruntime": 10.0, "tensorrt": 20.0}


@dataclass
class Preparation:
    """What is prepared, and where.

    Attributes:
        work: Folder of everything that is made; ignored by git.
        golden: Folder of recorded cases.
        kit: Folder with make_bundle.py and unbundle.py, which pack ONNX Runtime CUDA and TensorRT 8.5.3; or None.
        large: Whether to export and describe XL/2, which takes minutes.
        failed: What could not be made, and why.
    """

    work: Path
    golden: Path = GOLDEN
    kit: Path | None = None
    large: bool = True
    failed: dict[str, str] = field(default_factory=dict)


def prepare(asked: Preparation) -> list[Kit]:
    """Make and pack everything that can be made; return the kits that are whole.

    The slow parts that need no torch, compressing libraries above all, run beside the exports. The manifest is
    written as kits are made, so that an interrupted preparation keeps them.
    """
    made, pieces = asked.work / "made", asked.work / "pieces"
    made.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(pieces, ignore_errors=True)
    shelf = Shelf(asked.work)
    with ThreadPoolExecutor(1) as pool:
        libraries = pool.submit(_library_kits, asked, pieces, shelf)
        _made_kits(asked, made, pieces, shelf)
        libraries.result()
    return shelf.kits


class Shelf:
    """The kits made so far, in the stages' order, and the manifest that names them.

    Attributes:
        kits: What is there.
    """

    def __init__(self, work: Path) -> None:
        self._work, self._lock = work, threading.Lock()
        self.kits: list[Kit] = []
        write_manifest(work, [])

    def add(self, kit: Kit) -> None:
        """Add a kit; two threads may."""
        with self._lock:
            self.kits = sorted([*self.kits, kit], key=lambda one: KITS.index(one.name))
            write_manifest(self._work, self.kits)


def _made_kits(asked: Preparation, made: Path, pieces: Path, shelf: Shelf) -> None:
    maker = Maker(made, made_key(asked.golden))
    bundles, sky, rtx, xl = made / "bundles", made / "sky", made / "rtx", made / "xl"
    maker.make("bundles of recorded models", bundles, lambda to: _export_bundles(asked.golden, to))
    maker.make("the sky in 8 bits", sky, inputs.quantize_sky)
    maker.make("recorded calls and plans", rtx, lambda to: _record(sky / "sky", bundles, to, asked.work / "site"))
    reference = made / "reference"
    maker.make("errors of ONNX Runtime's CPU provider", reference, lambda to: _refer(asked.golden, bundles, to))
    maker.make("small models for a rehearsal", made / "small_xl", lambda to: _describe(to, small=True))
    if asked.large:
        maker.make("XL/2, described", xl, lambda to: _describe(to, small=False))
    asked.failed |= maker.failed
    sources = {"bundles": bundles, "rtx": rtx / "fp16", "xl": xl}
    files = {f"{to}/{name}": path for to, folder in sources.items() for name, path in _files(folder).items()}
    files |= {f"reference/{name}": path for name, path in _files(reference).items()}
    files |= {f"core/{path.name}": path for path in (ROOT / "runtime").glob("_core*.so")}
    if asked.golden != GOLDEN:
        files |= {
            f"golden/{name}": path for name, path in _files(asked.golden).items() if "state_dict" not in path.name
        }
    eight_bits = {f"rtx/{name}": path for name, path in _files(rtx / "eight-bits").items()}
    for name, content in (("base", files), ("eight-bits", eight_bits)):
        if content:
            shelf.add(Kit(name, (cut(pack(content, asked.work / f"{name}.tar.xz"), name, pieces),)))


def _export_bundles(golden: Path, folder: Path) -> None:
    inputs.export_tiny(folder)
    inputs.export_all_recorded(golden, folder)


def _refer(golden: Path, bundles: Path, folder: Path) -> None:
    """Record the FP16 errors of the recorded rollouts on the CPU; those of a GPU may be a little larger.

    Raises:
        RuntimeError: A rollout failed.
    """
    settings = Settings("cpu", False, str(golden), str(bundles), "", "", str(folder), None, {})
    with tempfile.TemporaryDirectory() as work:
        lines = Path(work) / "records"
        check_golden(settings, Recorder(lines), backend="onnxruntime", precisions=("fp16",))
        records = read_records(lines)
    failed = [record for record in records if "error" in record or "missing" in record]
    if failed:
        raise RuntimeError(f"{failed[0]['what']}: {failed[0].get('error') or failed[0]['missing']}")
    (folder / REFERENCE).write_text(json.dumps({"stages": {"golden": {"records": records}}}, indent=1) + "\n")


def _record(sky: Path, bundles: Path, folder: Path, site: Path) -> None:
    """Record the calls; the plans of them are built in a process that sees TensorRT for RTX."""
    inputs.record_calls(sky, bundles, folder)
    wheels.install(wheels.RTX, site)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    module = __name__.replace(".carrying.prepare", ".rtx.prebuilt")
    # In a folder without packages: -m would find the root's by accident.
    subprocess.run([sys.executable, "-m", module, str(folder / "fp16")], env=environment, cwd=folder, check=True)


def _describe(folder: Path, *, small: bool) -> None:
    for depth in (4, 28):
        inputs.describe_full_size(folder, depth, small=small)


def _library_kits(asked: Preparation, pieces: Path, shelf: Shelf) -> None:
    makers: Mapping[str, Callable[[], Kit]] = {
        "rtx": lambda: _rtx_kit(asked.work, pieces),
        "onnxruntime": lambda: _kit_of_kit(asked, "onnxruntime", pieces),
        "tensorrt": lambda: _kit_of_kit(asked, "tensorrt", pieces),
    }
    for name, make in makers.items():
        try:
            shelf.add(make())
        except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            asked.failed[f"kit {name}"] = str(error)[:800]


def _rtx_kit(work: Path, pieces: Path) -> Kit:
    """Pack NVIDIA's wheels byte for byte; its license forbids changed copies."""
    files: dict[str, Path] = {}
    for requirement in wheels.RTX:
        files |= wheels.unpacked(wheels.download(requirement, work / "wheels", DEVICE_PYTHON))
    return Kit("rtx", (cut(pack(files, work / "rtx.tar.xz"), "rtx", pieces),))


def _kit_of_kit(asked: Preparation, name: str, pieces: Path) -> Kit:
    """Let the kit pack a library in its own chunks, which travel as they are beside its installer."""
    if asked.kit is None:
        raise RuntimeError("left out: give the folder of the kit that packs it with --kit")
    out, (parts, *options) = asked.work / f"kit-{name}", _KIT_PARTS[name]
    command = [sys.executable, str(asked.kit / "make_bundle.py"), "--out", str(out), "--work", str(asked.work / "kit")]
    command += ["--with", parts, "--chunk-mib", str(_KIT_CHUNK_MIB), "--preset", "1", "--jobs", "1", *options]
    if not (out / "manifest.json").is_file():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the kit could not pack it: {(done.stdout + done.stderr).strip()[-600:]}")
    files = {path.name: path for path in out.iterdir()} | {"unbundle.py": asked.kit / "unbundle.py"}
    archive = pack(files, asked.work / f"{name}.tar", compress=False)
    return Kit(name, (cut(archive, name, pieces),), _KIT_UNPACK_S[name])


def carried_tree_nbytes() -> int:
    """Return the bytes of the tree that travel: what git tracks and what it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    return sum((ROOT / name).lstat().st_size for name in names if name and os.path.lexists(ROOT / name))


def lay_calls(work: Path, kits: Sequence[Kit], stages: Sequence[Stage], limits: Limits) -> Plan:
    """Plan the calls and lay out a folder for each, with the manifest and its pieces."""
    plan = plan_calls(kits, stages, limits)
    for old in work.glob("call-*"):
        shutil.rmtree(old)
    commit, before = git_commit(), list[str]()
    for number, call in enumerate(plan.calls, 1):
        folder = work / f"call-{number}"
        folder.mkdir()
        write_manifest(folder, kits)
        (folder / COMMIT_FILE).write_text(commit + "\n")
        (folder / BEFORE).write_text(json.dumps(before) + "\n")
        before += [piece.name for piece in call.pieces]
        if (work / "report.json").is_file():
            shutil.copyfile(work / "report.json", folder / "report.json")
        for piece in call.pieces:
            os.link(work / "pieces" / piece.name, folder / piece.name)
    return plan


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
