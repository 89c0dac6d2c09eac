"""Locks and atomic placement of engines, with killed and concurrent builds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from vdmrt.bundle import list_engines, open_bundle, read_plan, replace_folder
from vdmrt.engines.claims import claim
from vdmrt.errors import EngineError

SUPPORT = Path(__file__).parent / "support"


@pytest.fixture(params=["tensorrt", "onnxruntime"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(SUPPORT / "engine_builder_script.py"), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def test_no_incomplete_engine_is_left_after_fifty_kills(bundle: Path, backend: str) -> None:
    records = finish(start(backend, bundle, "kill", 50, 7))

    assert len(records) == 50
    assert sum(record["killed"] for record in records) >= 25, "most of the moments must lie within the build"
    # The first build completed: from then on there is always a complete engine, possibly a newer one.
    assert all(len(record["found"]) <= 1 for record in records)
    (last,) = finish(start(backend, bundle, "build"))
    (engine,) = list_engines(open_bundle(bundle))
    assert engine.manifest.key == last["key"]
    assert all(read_plan(engine, stage) for stage in engine.manifest.plans)


def test_a_build_removes_what_a_killed_one_left(bundle: Path, backend: str) -> None:
    finish(start(backend, bundle, "kill", 5, 1))
    for path in (bundle / "engines").iterdir():
        if not path.name.startswith("."):
            shutil.rmtree(path)

    finish(start(backend, bundle, "build"))

    (path,) = (bundle / "engines").iterdir()
    assert not path.name.startswith(".")


def test_of_two_builders_one_builds_and_the_other_reuses_the_engine(bundle: Path, backend: str) -> None:
    both = [start(backend, bundle, "build"), start(backend, bundle, "build")]

    records = [record for process in both for record in finish(process)]

    assert records[0]["key"] == records[1]["key"]
    built = sorted(line for record in records for line in record["said"] if line.startswith("plans built"))
    assert built == ["plans built: 0", "plans built: 4"]
    assert len(list_engines(open_bundle(bundle))) == 1


def test_a_waiting_builder_is_notified_once_and_continues(tmp_path: Path) -> None:
    said: list[str] = []
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with claim(tmp_path, "key"):
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)

    def waiting() -> None:
        said.append("waiting")
        release.set()

    with claim(tmp_path, "key", waiting) as work:
        assert work.is_dir()
    thread.join()
    assert said == ["waiting"]
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half"), claim(tmp_path, "key") as work:
        (work / "fill.plan").write_bytes(b"half")
        raise RuntimeError("half")

    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_cannot_be_read_is_not_blamed_on_the_engine(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="fill.onnx"), claim(tmp_path / "engines", "key"):
        (tmp_path / "fill.onnx").read_bytes()


def test_an_engine_is_replaced_atomically(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        with claim(tmp_path, "key") as work:
            (work / "fill.plan").write_bytes(content)
            replace_folder(work, tmp_path / "key")

    assert (tmp_path / "key" / "fill.plan").read_bytes() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o755


def test_an_engines_path_that_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engines").write_text("")

    with (
        pytest.raises(EngineError, match=r"engines/key\' cannot be written: File exists"),
        claim(tmp_path / "engines", "key"),
    ):
        pass


def test_a_file_that_grows_too_large_is_one_sentence(bundle: Path, backend: str) -> None:
    """A limit on the size of files stands in for a full disk."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"sys.path.insert(0, {str(SUPPORT)!r}); import engine_builder_script as script;"
        "from pathlib import Path; from vdmrt.errors import EngineError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n"
        f"build = script.{'build' if backend == 'tensorrt' else 'build_onnxruntime'}\n"
        f"try: build(Path({str(bundle)!r}), force=True, said=[])\n"
        "except EngineError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=os.environ)

    why = r"' cannot be written: the disk is full \(File too large\)"
    if backend == "onnxruntime":
        why = r": the engine cannot be written: is the disk full\? ONNX Runtime reports .*"
    assert re.search(rf"(engines|graphs)[^\s']*{why}; nothing was left( half written)?$", done.stdout.strip(), re.S)
    assert list((bundle / "engines").glob("*")) == []
