"""The device's side of a transfer: pieces into the store, whole kits unpacked, and the interpreters that they give."""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from ..running.settings import ROOT
from .archive import DamagedPieceError, join, keep_pieces
from .kits import Kit, read_manifest, write_manifest

__all__ = ["BEFORE", "Store"]

# Names of the pieces that earlier calls carried.
BEFORE = "before.json"
_CORE = "_core.abi3.so"
_INSTALL_TIMEOUT_S = 120
_FAILURES = (OSError, ValueError, DamagedPieceError, subprocess.SubprocessError, tarfile.TarError, lzma.LZMAError)


class Store:
    """Where everything is kept that arrived, from call to call.

    Attributes:
        path: The folder.
        kits: What there is to arrive.
        failed: Why a kit of which all or some arrived cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kits: tuple[Kit, ...] = read_manifest(path)
        self.failed: dict[str, str] = {}

    def kit_path(self, name: str) -> Path:
        """Return where a kit is unpacked."""
        return self.path / "kits" / name

    def has(self, name: str) -> bool:
        """Whether a kit is unpacked."""
        return (self.kit_path(name) / ".unpacked").is_file()

    def receive(self, folder: Path) -> list[str]:
        """Take in what a call carried, unpack the kits that are whole now, and return their names.

        A kit that fails is in ``failed`` and leaves the others.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        kits = read_manifest(folder)
        if kits and kits != self.kits:
            self._begin_anew(kits)
        return [kit.name for kit in self.kits if self._receive_kit(kit, folder)]

    def lacks(self, folder: Path) -> list[str]:
        """Return the pieces that calls before this one carried and that are not here: the machine is another."""
        before = folder / BEFORE
        names = json.loads(before.read_text()) if before.is_file() else []
        return [name for name in names if not (self.path / "pieces" / name).is_file()]

    def _receive_kit(self, kit: Kit, folder: Path) -> bool:
        failure = self.path / "kits" / f"{kit.name}.failed"
        try:
            there = keep_pieces(folder, self.path / "pieces", kit.archives)
            if len(there) < len(kit.pieces) or self.has(kit.name):
                return False
            if failure.is_file():  # trying again would take the seconds again
                raise ValueError(failure.read_text())
            self._unpack(kit)
        except _FAILURES as error:
            self.failed[kit.name] = str(error)
            if not isinstance(error, DamagedPieceError):
                failure.parent.mkdir(parents=True, exist_ok=True)
                failure.write_text(str(error))
            return False
        return True

    def _begin_anew(self, kits: tuple[Kit, ...]) -> None:
        """Throw away what belongs to other kits."""
        for name in ("pieces", "kits"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        write_manifest(self.path, kits)
        self.kits = kits

    def _unpack(self, kit: Kit) -> None:
        target = self.kit_path(kit.name)
        shutil.rmtree(target, ignore_errors=True)
        for archive in kit.archives:
            join(archive, self.path / "pieces", target)
        if (target / "unbundle.py").is_file():
            _install(target)
        core = target / "core" / _CORE
        if core.is_file() and not (ROOT / "runtime" / _CORE).exists():
            shutil.copyfile(core, ROOT / "runtime" / _CORE)
        (target / ".unpacked").touch()

    def interpreters(self, *, rehearse: bool, rtx_site: Path | None) -> dict[str, list[str]]:
        """Return the command of each Python.

        Args:
            rehearse: Whether this machine's own libraries stand in for carried ones.
            rtx_site: Folder with TensorRT for RTX for this interpreter, of a rehearsal.
        """
        python = [sys.executable]
        rtx = rtx_site if rehearse and rtx_site else self.kit_path("rtx")
        found = {"main": python, "rtx": self._with_path(python, str(rtx)), "onnxruntime": python, "tensorrt": python}
        if self.has("onnxruntime") and not rehearse:
            found["onnxruntime"] = self._with_path(
                python, str(self.kit_path("onnxruntime") / "store" / "root" / "site312")
            )
        environment = self.kit_path("tensorrt") / "store" / "root" / "env.sh"
        if environment.is_file():
            script = f'. {environment} && trt310 "$@"'
            found["tensorrt"] = ["env", f"TRTKIT_EXTRA={self.package_link()}", "bash", "-c", script, "trt310"]
        sanitizer = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "97"]
        *environment_of, interpreter = found["onnxruntime"]
        found["memcheck"] = [*environment_of, *sanitizer, interpreter]
        return found

    def package_link(self) -> Path:
        """Return a folder in which ``vdmrt`` is this checkout, whatever it is called."""
        folder = self.path / "link"
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / "vdmrt"
        if not link.is_symlink() or link.resolve() != ROOT:
            link.unlink(missing_ok=True)
            link.symlink_to(ROOT, target_is_directory=True)
        return folder

    def _with_path(self, python: list[str], site: str) -> list[str]:
        """Return an interpreter that finds a folder's packages before its own."""
        return ["env", f"PYTHONPATH={site}:{self.package_link()}", *python]


def _install(folder: Path) -> None:
    """Let a kit that brings its own installer install itself beside its chunks."""
    script, store = str(folder / "unbundle.py"), str(folder / "store")
    for arguments in (["add", str(folder)], ["install"]):
        command = [sys.executable, script, *arguments, "--store", store]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False)
        print(done.stdout, done.stderr, sep="", end="", file=sys.stderr, flush=True)
        if done.returncode:
            said = (done.stdout + done.stderr).strip().splitlines()
            raise ValueError(f"its installer failed with status {done.returncode}: {said[-1] if said else 'no word'}")
