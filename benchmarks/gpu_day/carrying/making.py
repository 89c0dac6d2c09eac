"""Makes things once: a step that fails leaves the others, and what was made of the same code is not made again."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from ..running.settings import ROOT

__all__ = ["Maker", "code_key"]


class Maker:
    """Runs the steps of a preparation.

    Attributes:
        failed: Why what could not be made could not.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key
        self.failed: dict[str, str] = {}

    def make(self, what: str, target: Path, step: Callable[[Path], object]) -> bool:
        """Make a folder by a step, where it is not there from the same code; return whether it is there.

        The step writes into a folder beside it, so that nothing half made is taken for made.
        """
        mark = self._folder / f".{target.name}.made"
        if target.is_dir() and mark.is_file() and mark.read_text() == self._key:
            print(f"… {what}: there already", file=sys.stderr, flush=True)
            return True
        scratch, started = target.with_name(f".{target.name}.new"), time.monotonic()
        print(f"… {what}", file=sys.stderr, flush=True)
        for folder in (scratch, target):
            shutil.rmtree(folder, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            step(scratch)
        except Exception as error:  # the day goes on with what can be made
            traceback.print_exc()
            self.failed[what] = f"{type(error).__name__}: {error}"
            return False
        scratch.rename(target)
        mark.write_text(self._key)
        print(f"  made in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        return True


def code_key(folders: Iterable[str] = ("bundle", "calibration", "export")) -> str:
    """Return what changes when the code that makes things does."""
    digest = hashlib.sha256()
    code = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    for path in sorted([*code, Path(__file__).with_name("inputs.py")]):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()
