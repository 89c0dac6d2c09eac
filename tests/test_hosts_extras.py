"""Optional dependencies."""

from __future__ import annotations

import importlib

import pytest

from vdmrt.errors import ExportError
from vdmrt.hosts import install_command, needs_extra
from vdmrt.hosts.extras import advise_tensorrt


def test_a_missing_package_names_its_extra() -> None:
    wanted = (
        r"vdmrt export needs no_such_package, which is not installed; install it with pip install 'vdmrt\[export\]'"
    )

    with pytest.raises(ExportError, match=wanted), needs_extra("export", "vdmrt export", fail=ExportError):
        importlib.import_module("no_such_package.part")


def test_a_missing_module_of_ours_is_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError), needs_extra("export", "vdmrt export", fail=ExportError):
        importlib.import_module("vdmrt.no_such_module")


def test_a_conflicting_distribution_is_removed_first() -> None:
    assert install_command("cpu") == "pip install 'vdmrt[cpu]'"
    assert install_command("cuda", remove=["one", "two"]) == "pip uninstall -y one two && pip install 'vdmrt[cuda]'"


@pytest.mark.parametrize(
    ("cuda", "advice"),
    [
        ("14.0", "this driver runs CUDA 14.0: pip install tensorrt-cu13"),
        ("12.4", "this driver runs CUDA 12.4: pip install tensorrt-cu12"),
        ("10.2", "this driver runs CUDA 10.2, which no release supports any more: install a newer driver first"),
    ],
)
def test_the_drivers_cuda_chooses_tensorrt(cuda: str, advice: str) -> None:
    assert advise_tensorrt(cuda) == advice
