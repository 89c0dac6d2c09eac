"""Optional dependencies."""

from __future__ import annotations

import importlib

import pytest

from vdmrt.errors import ExportError
from vdmrt.hosts import needs_extra


def test_a_missing_package_names_its_extra() -> None:
    wanted = (
        r"vdmrt export needs no_such_package, which is not installed; install it with pip install 'vdmrt\[export\]'"
    )

    with pytest.raises(ExportError, match=wanted), needs_extra("export", "vdmrt export", fail=ExportError):
        importlib.import_module("no_such_package.part")


def test_a_missing_module_of_ours_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extra("export", "vdmrt export", fail=ExportError):
        importlib.import_module("vdmrt.no_such_module")
