"""Contents of the wheel and the sdist."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import vdmrt

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
CONFIG: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {init.parent.name for init in ROOT.glob("*/__init__.py")}
PACKAGES = {
    ".".join(["vdmrt", *init.parent.relative_to(ROOT).parts])
    for folder in FOLDERS
    for init in (ROOT / folder).rglob("__init__.py")
}
ROOT_MODULES = {"__init__.py", "__main__.py", "_lazy.py", "building.py", "cli.py", "errors.py"}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist and the wheel built from it, from a copy of the tree."""
    tree = tmp_path_factory.mktemp("build") / "tree"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.so", "*.egg-info", "build", "dist", "demo-out", "data")
    shutil.copytree(ROOT, tree, ignore=ignored)
    # In another folder: with the root on sys.path, the build would import its modules.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tree / "dist"), str(tree)]
    done = subprocess.run(command, cwd=tree.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return tree / "dist"


@pytest.fixture(scope="module")
def wheel_names(dist: Path) -> set[str]:
    """Return the paths inside the wheel."""
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_package_is_listed() -> None:
    assert set(CONFIG["tool"]["setuptools"]["packages"]) == PACKAGES | {"vdmrt"}


def test_static_tools_see_every_package() -> None:
    modules = {f"vdmrt.{name.removesuffix('.py')}" for name in ROOT_MODULES - {"__init__.py"}}

    assert set(CONFIG["tool"]["mypy"]["packages"]) == {f"vdmrt.{folder}" for folder in FOLDERS}
    assert set(CONFIG["tool"]["mypy"]["modules"]) == modules | {"vdmrt"}
    assert set(CONFIG["tool"]["pyright"]["include"]) >= FOLDERS | ROOT_MODULES | {"tests"}


def test_root_has_no_stray_module() -> None:
    """All ``*.py`` at the root are packaged, because the root is the package."""
    assert {path.name for path in ROOT.glob("*.py")} == ROOT_MODULES


def test_every_c_source_is_listed() -> None:
    (core,) = CONFIG["tool"]["setuptools"]["ext-modules"]
    csrc = ROOT / "runtime" / "csrc"

    assert sorted(core["sources"]) == sorted(str(path.relative_to(ROOT)) for path in csrc.glob("*.c"))
    assert sorted(core["depends"]) == sorted(str(path.relative_to(ROOT)) for path in csrc.glob("*.h"))


def test_tests_have_unique_names_and_are_not_a_package() -> None:
    names = [path.name for folder in ("", "support") for path in (ROOT / "tests" / folder).glob("*.py")]

    assert "__init__.py" not in names
    assert len(names) == len(set(names))


def test_wheel_installs_vdmrt_and_nothing_else(wheel_names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel_names}

    assert tops == {"vdmrt", f"vdmrt-{vdmrt.__version__}.dist-info"}


def test_wheel_contains_every_module(wheel_names: set[str]) -> None:
    modules = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]

    modules.append(ROOT / "examples" / "sky" / "sky.py")  # the renderer of `vdmrt demo`
    assert {name for name in wheel_names if name.endswith(".py")} == {
        f"vdmrt/{path.relative_to(ROOT).as_posix()}" for path in modules
    }


def test_wheel_contains_the_core_its_types_and_the_demo(wheel_names: set[str]) -> None:
    rest = {name for name in wheel_names if name.startswith("vdmrt/") and not name.endswith(".py")}

    core = {"vdmrt/py.typed", "vdmrt/runtime/_core.abi3.so", "vdmrt/runtime/_core.pyi"}
    bundle = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "examples/sky/bundle").rglob("*.*") if path.is_file()
    }
    profiler = {"vdmrt/profiler/analysis/dashboard.json", "vdmrt/profiler/REPORT.md"}
    look = {f"vdmrt/reporting/{name}" for name in ("charts.css", "colors.css", "page.css", "page.js")}
    assert rest == core | profiler | look | {f"vdmrt/{file}" for file in bundle}


def test_wheel_supports_every_python_version(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")

    assert wheel.name.startswith(f"vdmrt-{vdmrt.__version__}-cp310-abi3-")


def test_sdist_contains_sources_and_license_but_no_tests(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert names >= {"LICENSE", "README.md", "pyproject.toml", "py.typed", "runtime/_core.pyi"}
    assert names >= {str(path.relative_to(ROOT)) for path in (ROOT / "runtime" / "csrc").iterdir()}
    assert not any(name.startswith("tests") for name in names)
