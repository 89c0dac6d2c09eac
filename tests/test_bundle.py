"""Writing bundles atomically, and reading them back."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdmrt.bundle import (
    FP16,
    Artifact,
    CacheLayout,
    CachePolicy,
    CacheProjections,
    Geometry,
    Graph,
    Manifest,
    ParameterNames,
    PositionScheme,
    Role,
    SamplerDefaults,
    ScheduleSpec,
    Stage,
    TensorSpec,
    amended_bundle,
    check_bundle_place,
    new_bundle,
    open_bundle,
)
from vdmrt.bundle.model.required import required_tensors, tensor_shapes
from vdmrt.errors import BundleError

COUNTS = st.integers(1, 64)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    chunk_frames = draw(COUNTS)
    context_frames = draw(st.integers(0, chunk_frames))
    text = draw(st.booleans())
    sinks, slots = draw(st.integers(0, 3)), draw(st.integers(chunk_frames, 2 * chunk_frames))
    kind: Literal["cyclic", "rope", "absolute", "none"] = draw(st.sampled_from(["cyclic", "rope", "absolute", "none"]))
    return Geometry(
        layers=draw(st.integers(1, 3)),
        heads=draw(COUNTS),
        head_size=draw(COUNTS),
        tokens_per_frame=draw(COUNTS),
        latent_channels=draw(COUNTS),
        latent_height=draw(COUNTS),
        latent_width=draw(COUNTS),
        chunk_frames=chunk_frames,
        layout=draw(st.sampled_from(CacheLayout)),
        policy=CachePolicy(sinks, slots),
        requests=draw(COUNTS),
        rows_per_request=draw(st.sampled_from([1, 2])),
        max_steps=draw(COUNTS),
        positions=PositionScheme(kind, sinks + slots + chunk_frames + draw(COUNTS) if kind != "none" else 0),
        context=draw(st.sampled_from(["previous", "first"])) if context_frames else None,
        context_frames=context_frames,
        text_tokens=draw(COUNTS) if text else 0,
        text_width=draw(COUNTS) if text else 0,
        learned_variance=draw(st.booleans()),
        stochastic=draw(st.booleans()),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    geometry = draw(geometries())
    projections = draw(st.none() | st.just(CacheProjections("q", "k", "v", "o")))
    return Manifest(
        family="ca2vdm",
        name=draw(st.text(max_size=8)),
        prediction=draw(st.sampled_from(["epsilon", "v", "flow"])),
        geometry=geometry,
        parameters=ParameterNames("blocks.{layer}.", draw(st.sampled_from([(), ("head*",)])), projections),
        schedule=ScheduleSpec("cosine", draw(COUNTS), beta_start=draw(st.none() | st.floats(0, 1))),
        sampler=SamplerDefaults("ddim", draw(COUNTS), draw(st.floats(-10, 10))),
        graphs={FP16: {stage: stage_graph(geometry, stage) for stage in (Stage.FILL, Stage.DENOISE)}},
        components={},
        codec=None,
        null_text=draw(st.none() | st.just(Artifact("null_text.npy", "00", 0))),
        random_weights=draw(st.booleans()),
        provenance=draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)),
    )


def stage_graph(g: Geometry, stage: Stage) -> Graph:
    shapes, required = tensor_shapes(g, stage), required_tensors(g, stage)
    return graph([TensorSpec(f"{role}.{layer}", "float16", shapes[role], role, layer) for role, layer in required], [])


def graph(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Graph:
    file = Artifact("graphs/it.onnx", "ab", 3)
    return Graph(file, None, tuple(inputs), tuple(outputs), flops=1, nbytes_moved=2)


@contextmanager
def empty_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def write_bundle(folder: Path, name: str, *, replace: bool = False) -> None:
    with new_bundle(folder, replace=replace) as writer:
        (writer.path / "model.json").write_text(json.dumps({"name": name}))


def name_in(folder: Path) -> str:
    return str(json.loads((folder / "model.json").read_text())["name"])


@given(manifests())
def test_a_manifest_is_read_as_it_was_written(manifest: Manifest) -> None:
    with empty_folder() as folder:
        with new_bundle(folder / "bundle") as writer:
            writer.finish(manifest)

        assert open_bundle(folder / "bundle").manifest == manifest


@given(geometries())
def test_the_cache_has_as_many_elements_as_its_tensors(g: Geometry) -> None:
    past = stage_graph(g, Stage.DENOISE).tensor(Role.PAST_KEY, layer=0)

    assert g.cache_elements * 2 == 2 * g.layers * past.nbytes


def test_every_file_is_recorded_once(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    recorded = sorted(artifact.file for artifact in bundle.manifest.artifacts())

    assert recorded == sorted(
        str(path.relative_to(tiny_bundle))
        for path in tiny_bundle.rglob("*")
        if path.is_file() and path.name != "model.json"
    )


def test_an_untouched_bundle_verifies(tiny_bundle: Path) -> None:
    open_bundle(tiny_bundle).verify()


def test_a_bundle_may_be_moved(tiny_bundle: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_bundle, tmp_path / "elsewhere")

    assert open_bundle(moved).manifest == open_bundle(tiny_bundle).manifest
    open_bundle(moved).verify()


def test_a_relative_path_is_made_absolute(tiny_bundle: Path) -> None:
    bundle = open_bundle(os.path.relpath(tiny_bundle))
    paths = [bundle.locate(artifact) for artifact in bundle.manifest.artifacts()]

    assert bundle.path == tiny_bundle.resolve()
    assert all(path.is_absolute() for path in paths)


def test_an_integer_is_accepted_as_a_float(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    document = json.loads((copy / "model.json").read_text())
    document["sampler"]["guidance"] = 7
    (copy / "model.json").write_text(json.dumps(document))

    guidance = open_bundle(copy).manifest.sampler.guidance

    assert guidance == 7.0 and isinstance(guidance, float)


def test_a_bundle_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with new_bundle(target) as writer:
        (writer.path / "model.json").write_text("{}")
        assert not target.exists()

    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_a_bundle_is_replaced_on_request(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", "old")
    write_bundle(tmp_path / "bundle", "new", replace=True)

    assert name_in(tmp_path / "bundle") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


DISK_FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
FAILURES = [
    (ValueError, ValueError),
    (KeyboardInterrupt, KeyboardInterrupt),
    (InterruptedError, InterruptedError),
    (DISK_FULL, BundleError),
]


@pytest.mark.parametrize(("error", "caught"), FAILURES)
def test_a_failure_leaves_nothing(tmp_path: Path, error: BaseException, caught: type[BaseException]) -> None:
    with pytest.raises(caught), new_bundle(tmp_path / "bundle") as writer:
        (writer.path / "model.json").write_text("{}")
        raise error

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "caught"), FAILURES)
def test_a_failed_replacement_keeps_the_old_bundle(
    tmp_path: Path, error: BaseException, caught: type[BaseException]
) -> None:
    write_bundle(tmp_path / "bundle", "old")
    with pytest.raises(caught), new_bundle(tmp_path / "bundle", replace=True):
        raise error

    assert name_in(tmp_path / "bundle") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_missing_source_is_not_reported_as_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source.bin"), new_bundle(tmp_path / "bundle"):
        (tmp_path / "source.bin").read_bytes()

    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", "old")
    (tmp_path / "link").symlink_to("bundle")
    write_bundle(tmp_path / "link", "new", replace=True)

    assert (tmp_path / "link").is_symlink()
    assert name_in(tmp_path / "bundle") == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "link"]


def test_a_dangling_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("bundle")
    write_bundle(tmp_path / "link", "new")

    assert (tmp_path / "link").is_symlink()
    assert name_in(tmp_path / "bundle") == "new"


def test_parts_of_killed_writers_are_not_carried_over(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    inside, beside = tmp_path / "bundle" / "engines" / ".key.0123abcd.part", tmp_path / ".bundle.0123abcd.part"
    for folder in (inside, beside):
        folder.mkdir(parents=True)
        (folder / "half.plan").touch()
    (tmp_path / "bundle" / ".model.json.0123abcd.part").touch()
    (tmp_path / "bundle" / ".gitattributes").touch()
    bundle = open_bundle(tmp_path / "bundle")
    with amended_bundle(bundle) as writer:
        writer.finish(bundle.manifest)

    found = {path.name for path in (tmp_path / "bundle").rglob(".*")}
    assert found == {".gitattributes"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_target_is_checked_before_any_work(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", "old")

    with pytest.raises(BundleError, match="already exists; choose another place, or replace it with --force"):
        check_bundle_place(tmp_path / "bundle")
    check_bundle_place(tmp_path / "bundle", replace=True)
    check_bundle_place(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
