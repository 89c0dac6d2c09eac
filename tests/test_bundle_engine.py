"""Engines in a bundle: reading, lookup and trust."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from vdmrt.bundle import (
    FP16,
    FP32,
    Artifact,
    Bundle,
    Check,
    Engine,
    EngineManifest,
    Machine,
    Plan,
    cache_folder,
    encode,
    engine_mismatches,
    find_engine,
    is_trusted,
    list_engines,
    open_bundle,
    open_engine,
    read_plan,
    record_checks,
    record_trust,
    stage_graphs,
)
from vdmrt.errors import BundleError, EngineError

HERE = Machine("10.3.0", "9.0", "NVIDIA H100 80GB HBM3", "12.8", "570.00")


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return open_bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def write_engine(
    bundle: Bundle, key: str = "key", machine: Machine = HERE, *, trusted: bool = True, **changed: Any
) -> Engine:
    folder = bundle.path / "engines" / key
    folder.mkdir(parents=True)
    plans = {}
    for stage, graph in stage_graphs(bundle, FP16).items():
        data = f"plan of {stage} in {key}".encode()
        (folder / f"{stage}.plan").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        if trusted:
            record_trust(digest)
        plans[stage] = Plan(
            file=Artifact(f"{stage}.plan", digest, len(data)),
            graph_sha256=graph.file.sha256,
            weights_sha256=graph.weights.sha256 if graph.weights else None,
            inputs=graph.inputs,
            outputs=graph.outputs,
            scratch_nbytes=1024,
            build_seconds=1.5,
        )
    manifest = EngineManifest(
        key=key, backend="tensorrt", precision=FP16, machine=machine, plans=plans, options={}, created="2026-01-01"
    )
    manifest = dataclasses.replace(manifest, **changed)
    (folder / "manifest.json").write_text(json.dumps(encode(manifest)))
    return open_engine(folder)


def edit(engine: Engine, **changed: Any) -> None:
    path = engine.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_an_engine_reads_back_as_it_was_written(bundle: Bundle) -> None:
    engine = write_engine(bundle)

    assert open_engine(engine.path).manifest == engine.manifest
    assert engine.manifest.machine == HERE
    assert list_engines(bundle) == (engine,)


def test_an_engine_that_fits_is_found(bundle: Bundle) -> None:
    engine = write_engine(bundle)

    assert find_engine(bundle, FP16, HERE) == engine


def test_the_newest_engine_that_fits_is_found(bundle: Bundle) -> None:
    write_engine(bundle, "old", created="2026-01-01")
    newest = write_engine(bundle, "new", created="2026-02-01")
    write_engine(bundle, "other", dataclasses.replace(HERE, tensorrt="10.4.0"), created="2026-03-01")

    assert find_engine(bundle, FP16, HERE) == newest


def test_a_missing_engine_raises_with_the_build_command(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"has no fp16 engine; build one with vdmrt build .* --precision fp16"):
        find_engine(bundle, FP16, HERE)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"tensorrt": "10.4.0"}, r"built with TensorRT 10\.4\.0, here is 10\.3\.0"),
        ({"compute_capability": "8.9"}, r"built for compute capability 8\.9, here is 9\.0"),
        ({"gpu": "NVIDIA H200"}, "built on NVIDIA H200, here is NVIDIA H100 80GB HBM3"),
    ],
)
def test_a_machine_mismatch_names_both_values(bundle: Bundle, changed: dict[str, str], sentence: str) -> None:
    engine = write_engine(bundle, machine=dataclasses.replace(HERE, **changed))

    (found,) = engine_mismatches(engine, bundle, HERE)
    assert re.fullmatch(sentence, found)
    with pytest.raises(EngineError, match=rf"no fp16 engine fits; build one with .*key: {sentence}"):
        find_engine(bundle, FP16, HERE)


def test_cuda_and_driver_may_differ(bundle: Bundle) -> None:
    engine = write_engine(bundle, machine=dataclasses.replace(HERE, cuda="13.0", driver="580.1"))

    assert engine_mismatches(engine, bundle, HERE) == ()


def test_every_mismatch_is_named(bundle: Bundle) -> None:
    engine = write_engine(bundle, machine=Machine("11.4.0", "8.0", "NVIDIA A100"))

    assert len(engine_mismatches(engine, bundle, HERE)) == 2


@pytest.mark.parametrize(
    ("level", "machine", "fits"),
    [
        ("ampere_plus", {"compute_capability": "8.6", "gpu": "NVIDIA A10"}, True),
        ("ampere_plus", {"compute_capability": "7.5", "gpu": "Tesla T4"}, False),
        ("same_compute_capability", {"gpu": "NVIDIA H200"}, True),
        ("same_compute_capability", {"compute_capability": "8.9"}, False),
        ("none", {"gpu": "NVIDIA H200"}, False),
    ],
)
def test_hardware_compatible_plans_fit_other_gpus(
    bundle: Bundle, level: str, machine: dict[str, str], fits: bool
) -> None:
    engine = write_engine(bundle, hardware_compatibility=level)

    assert (engine_mismatches(engine, bundle, dataclasses.replace(HERE, **machine)) == ()) is fits


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ("8.6.1", "10.3.0", True),
        ("10.3.0", "11.4.0.106", True),
        ("10.3.0", "10.16.1.11", True),
        ("8.6.1", "11.4.0", False),
        ("10.16.1", "10.3.0", False),
        ("11.0.0", "10.16.1", False),
    ],
)
def test_version_compatible_plans_fit_the_next_major(bundle: Bundle, built: str, here: str, fits: bool) -> None:
    machine = dataclasses.replace(HERE, tensorrt=here)
    yes = write_engine(bundle, "yes", dataclasses.replace(HERE, tensorrt=built), version_compatible=True)
    no = write_engine(bundle, "no", dataclasses.replace(HERE, tensorrt=built))

    assert (engine_mismatches(yes, bundle, machine, lean_runtime=True) == ()) is fits
    assert engine_mismatches(yes, bundle, machine) != ()
    assert engine_mismatches(no, bundle, machine, lean_runtime=True) != ()


def test_a_missing_lean_runtime_is_named(bundle: Bundle) -> None:
    engine = write_engine(bundle, version_compatible=True)
    machine = dataclasses.replace(HERE, tensorrt="11.4.0")

    assert engine_mismatches(engine, bundle, machine) == (
        "built with TensorRT 10.3.0, here is 11.4.0, which runs it only with the lean runtime of 10.3.0: "
        "pass it with --lean-runtime libnvinfer_lean.so.10",
    )


def test_stripped_plans_of_another_release_are_refused(bundle: Bundle) -> None:
    engine = write_engine(bundle, version_compatible=True, stripped=True)
    machine = dataclasses.replace(HERE, tensorrt="11.4.0")

    (found,) = engine_mismatches(engine, bundle, machine, lean_runtime=True)

    assert (
        found
        == "built with TensorRT 10.3.0, here is 11.4.0, and contains no weights, which a lean runtime cannot refit"
    )


def test_a_graph_mismatch_names_both_hashes(bundle: Bundle) -> None:
    engine = write_engine(bundle)
    plans = {
        stage: dataclasses.replace(plan, graph_sha256="0" * 64, weights_sha256="1" * 64)
        for stage, plan in engine.manifest.plans.items()
    }
    engine = Engine(engine.path, dataclasses.replace(engine.manifest, plans=plans))
    wanted = bundle.manifest.graphs[FP16]["fill"].file.sha256[:16]

    found = engine_mismatches(engine, bundle, HERE)

    assert found[0] == f"'fill' was built from a graph of SHA-256 {'0' * 16}, the bundle's is {wanted}"
    assert "'fill' was built from a weights of" in found[1]


def test_a_missing_stage_is_named(bundle: Bundle) -> None:
    engine = write_engine(bundle)
    plans = {"denoise": engine.manifest.plans["denoise"]}
    engine = Engine(engine.path, dataclasses.replace(engine.manifest, plans=plans))

    assert "has no plan for 'fill', which the bundle has" in engine_mismatches(engine, bundle, HERE)
    with pytest.raises(EngineError, match="has plans for denoise, none for 'fill'; build it again"):
        engine.plan("fill")


def test_an_engine_of_a_removed_precision_does_not_fit(bundle: Bundle) -> None:
    engine = write_engine(bundle)
    graphs = {FP32: bundle.manifest.graphs[FP32]}
    other = Bundle(bundle.path, dataclasses.replace(bundle.manifest, graphs=graphs))

    assert engine_mismatches(engine, other, HERE) == ("built from fp16 graphs, the bundle has fp32",)
    with pytest.raises(BundleError, match="has fp32, not 'fp16'"):
        find_engine(other, FP16, HERE)


def test_an_engine_that_failed_a_check_does_not_fit(bundle: Bundle) -> None:
    engine = record_checks(write_engine(bundle), (Check("agrees", False, "relative L2 0.5"),))

    assert open_engine(engine.path).manifest.checks == engine.manifest.checks
    assert engine_mismatches(engine, bundle, HERE) == ("failed its check 'agrees' after it was built: relative L2 0.5",)
    assert sorted(path.name for path in engine.path.iterdir() if path.suffix != ".plan") == ["manifest.json"]


def test_an_engine_that_failed_an_optional_check_fits(bundle: Bundle) -> None:
    engine = record_checks(write_engine(bundle), (Check("faster", False, "2 ms against 1 ms", required=False),))

    assert find_engine(bundle, FP16, HERE) == engine


def test_an_unfinished_engine_is_not_listed(bundle: Bundle) -> None:
    engine = write_engine(bundle)
    engine.path.rename(engine.path.with_name(".key.0123abcd.part"))
    (bundle.path / "engines" / "empty").mkdir()

    assert list_engines(bundle) == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not valid JSON or is truncated"),
        ("[]", "schema: wanted a number, found None; this is not an engine's manifest"),
        ('{"schema": 9}', "schema: this vdmrt reads schema 1, found 9; build the engine again"),
        ('{"schema": 1}', "key: is missing"),
    ],
)
def test_a_damaged_manifest_raises_one_sentence(bundle: Bundle, text: str, sentence: str) -> None:
    engine = write_engine(bundle)
    (engine.path / "manifest.json").write_text(text)

    with pytest.raises(EngineError, match=sentence):
        list_engines(bundle)


def test_a_folder_without_a_manifest_is_not_an_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"not an engine: it has no manifest\.json; make one with vdmrt build"):
        open_engine(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [("file", name, "a plain file name") for name in ("../fill.plan", "/etc/passwd", "a/b.plan", "..", "")]
    + [("sha256", "../x", "64 hexadecimal digits")],
)
def test_a_plan_outside_its_engine_is_refused(bundle: Bundle, field: str, value: str, wanted: str) -> None:
    engine = write_engine(bundle)
    document = json.loads((engine.path / "manifest.json").read_text())
    document["plans"]["fill"]["file"][field] = value
    edit(engine, plans=document["plans"])

    with pytest.raises(EngineError, match=rf"plans\.fill\.file\.{field}: wanted {wanted}, found"):
        open_engine(engine.path)


def test_a_manifest_without_plans_is_refused(bundle: Bundle) -> None:
    engine = write_engine(bundle)
    edit(engine, plans={})

    with pytest.raises(EngineError, match="plans: wanted at least one plan, found none"):
        open_engine(engine.path)


def test_a_plan_that_this_user_built_is_read(bundle: Bundle) -> None:
    engine = write_engine(bundle)

    assert read_plan(engine, "fill") == b"plan of fill in key"


def test_an_untrusted_engine_fits_only_with_trust_plans(bundle: Bundle) -> None:
    engine = write_engine(bundle, trusted=False)
    sentence = "native code that this user has not built: --trust-plans loads them"

    with pytest.raises(EngineError, match=f"no fp16 engine fits; build one with .* key: its plans are {sentence}"):
        find_engine(bundle, FP16, HERE)
    assert find_engine(bundle, FP16, HERE, trust_plans=True) == engine


def test_an_untrusted_plan_is_read_only_with_trust_plans(bundle: Bundle) -> None:
    engine = write_engine(bundle, trusted=False)

    with pytest.raises(EngineError, match=r"this user has not built this one; .*trust_plans=True"):
        read_plan(engine, "fill")
    assert read_plan(engine, "fill", trust_plans=True) == b"plan of fill in key"


def test_a_truncated_plan_is_refused(bundle: Bundle) -> None:
    engine = write_engine(bundle)
    (engine.path / "fill.plan").write_bytes(b"plan")

    with pytest.raises(EngineError, match=r"wanted 19 bytes, found 4; the plan is truncated"):
        read_plan(engine, "fill", trust_plans=True)


def test_an_altered_plan_is_refused_even_with_trust_plans(bundle: Bundle) -> None:
    engine = write_engine(bundle)
    (engine.path / "fill.plan").write_bytes(b"nalp of fill in key")

    with pytest.raises(EngineError, match="wanted SHA-256 .* the plan was altered"):
        read_plan(engine, "fill", trust_plans=True)


def test_a_missing_plan_is_refused(bundle: Bundle) -> None:
    engine = write_engine(bundle)
    (engine.path / "fill.plan").unlink()

    with pytest.raises(EngineError, match="cannot be read: No such file.*; build the engine again with --force"):
        read_plan(engine, "fill")


def test_a_plan_that_is_a_link_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    engine = write_engine(bundle)
    (engine.path / "fill.plan").rename(tmp_path / "elsewhere")
    (engine.path / "fill.plan").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(EngineError, match="is a link"):
        read_plan(engine, "fill", trust_plans=True)


def test_trust_is_kept_in_the_users_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    record_trust("a" * 64)
    record_trust("a" * 64)

    assert cache_folder() == tmp_path / "vdmrt"
    assert is_trusted("a" * 64)
    assert not is_trusted("b" * 64)


def test_a_cache_home_that_is_not_absolute_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))

    assert cache_folder() == tmp_path / ".cache" / "vdmrt"


def test_a_trust_record_writable_by_others_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    record_trust("a" * 64)
    (tmp_path / "vdmrt" / "trusted-plans").chmod(0o777)

    assert not is_trusted("a" * 64)


def test_trust_needs_a_full_hash() -> None:
    with pytest.raises(ValueError, match="wanted 64 hexadecimal digits, got '../x'"):
        is_trusted("../x")


def test_an_unwritable_trust_record_raises_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "vdmrt").write_text("")

    with pytest.raises(EngineError, match="cannot be written: Not a directory; set XDG_CACHE_HOME"):
        record_trust("a" * 64)
    assert os.listdir(tmp_path) == ["vdmrt"]
