"""Errors of folders that are not bundles, were altered, or cannot be written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vdmrt.bundle import FP16, FP32, Artifact, Bundle, new_bundle, open_bundle
from vdmrt.errors import BundleError

Document = dict[str, Any]


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Yield a bundle that a test may alter."""
    return shutil.copytree(tiny_bundle, tmp_path / "copy")


def alter(bundle: Path, change: Callable[[Document], object]) -> Path:
    document = json.loads((bundle / "model.json").read_text())
    change(document)
    (bundle / "model.json").write_text(json.dumps(document))
    return bundle


def put(*place: str | int, value: object) -> Callable[[Document], object]:
    """Return a change that sets the value at a path of the document."""

    def change(document: Any) -> None:
        for step in place[:-1]:
            document = document[step]
        document[place[-1]] = value

    return change


def drop(stage: str, role: str) -> Callable[[Document], object]:
    """Return a change that removes the first tensor of a role from a graph."""

    def change(document: Document) -> None:
        graph = document["graphs"]["fp32"][stage]
        side = next(side for side in (graph["inputs"], graph["outputs"]) if any(one["role"] == role for one in side))
        side.remove(next(one for one in side if one["role"] == role))

    return change


def shorten(stage: str, role: str) -> Callable[[Document], object]:
    """Return a change that shortens the last axis of a tensor."""

    def change(document: Document) -> None:
        graph = document["graphs"]["fp32"][stage]
        next(one for one in graph["inputs"] + graph["outputs"] if one["role"] == role)["shape"][-1] -= 1

    return change


def first_graph(bundle: Bundle) -> Artifact:
    return bundle.manifest.graphs[FP32]["fill"].file


@pytest.mark.parametrize(
    ("change", "field", "sentence"),
    [
        (put("schema", value=3), "schema", "this vdmrt reads schema 2, found 3; install a newer vdmrt"),
        (put("schema", value=0), "schema", "this vdmrt reads schema 2, found 0; export the model again"),
        (put("schema", value="2"), "schema", "wanted a number, found '2'; this is not a model.json of vdmrt"),
        (lambda document: document.pop("schema"), "schema", "wanted a number, found None"),
        (lambda document: document.pop("geometry"), "geometry", "is missing"),
        (lambda document: document["geometry"].pop("layers"), "geometry.layers", "is missing"),
        (put("geometry", "layers", value="7"), "geometry.layers", "wanted an integer, found '7'"),
        (put("geometry", "layers", value=7.0), "geometry.layers", "wanted an integer, found 7.0"),
        (put("geometry", "layers", value=True), "geometry.layers", "wanted an integer, found True"),
        (put("geometry", "layers", value=None), "geometry.layers", "wanted an integer, found null"),
        (put("geometry", "stochastic", value=1), "geometry.stochastic", "wanted true or false, found 1"),
        (
            put("geometry", "positions", "kind", value="learned"),
            "geometry.positions.kind",
            "wanted one of 'cyclic', 'rope', 'absolute', 'none', found 'learned'",
        ),
        (put("geometry", value=[]), "geometry", "wanted an object, found a list"),
        (put("geometry", "speed", value=1), "geometry", "unknown name 'speed'; known are layers, heads"),
        (put("color", value=1), None, "unknown name 'color'; known are family, name"),
        (put("geometry", "policy", "window", value=2), "geometry", "slots must be at least chunk_frames=3, got 2"),
        (put("geometry", "layers", value=0), "geometry", "layers must be at least 1, got 0"),
        (put("geometry", "text_width", value=-1), "geometry", "text_width must be at least 0, got -1"),
        (put("name", value={}), "name", "wanted a string, found an object"),
        (put("sampler", "guidance", value="7"), "sampler.guidance", "wanted a number, found '7'"),
        (put("family", value=1), "family", "wanted a string, found 1"),
        (put("geometry", "layout", value="flat"), "geometry.layout", "wanted one of 'factorized', 'joint'"),
        (put("components", "vae", value={}), "components.vae", "wanted one of 'fill', .*, found 'vae'"),
        (
            put("graphs", "fp32", "denoise", "inputs", 1, "role", value="latent"),
            "graphs.fp32.denoise",
            "wanted one tensor of role 'latent', found 2",
        ),
        (
            put("graphs", "fp16", "fill", "outputs", 1, "layer", value=5),
            "graphs.fp16.fill",
            "wanted one tensor of role 'present_value' and layer 0, found 0",
        ),
        (put("graphs", value={}), "graphs", "wanted at least one precision, found none"),
        (put("graphs", value=[]), "graphs", "wanted an object, found a list"),
        (put("graphs", "fp64", value={}), "graphs.fp64", "precision must be one of fp32, fp16, fp16-mixed, int8"),
        (put("graphs", "fp32", value={}), "graphs.fp32", r"wanted 'fill' and 'denoise', found \[\]"),
        (
            put("graphs", "fp32", "fill", "inputs", 0, "shape", value=3),
            "graphs.fp32.fill.inputs[0].shape",
            "wanted a list, found 3",
        ),
        (
            put("graphs", "fp32", "fill", "inputs", 0, "shape", 1, value="3"),
            "graphs.fp32.fill.inputs[0].shape[1]",
            "wanted an integer, found '3'",
        ),
        (
            put("graphs", "fp32", "fill", "inputs", 1, "dtype", value="int64"),
            "graphs.fp32.fill.inputs[1].dtype",
            "wanted one of 'float32', 'float16', 'int32', 'int8', 'float8_e4m3fn', found 'int64'",
        ),
        (
            put("graphs", "fp16", "denoise", "file", "sha256", value=1),
            "graphs.fp16.denoise.file.sha256",
            "wanted a string, found 1",
        ),
        (
            put("components", "vae_encode", "inputs", value=[]),
            "components.vae_encode",
            "wanted one input and one output of four dimensions",
        ),
        (put("provenance", "torch", value=2.0), "provenance.torch", "wanted a string, found 2.0"),
    ],
)  # fmt: skip
def test_errors_in_model_json_name_the_path(
    copy: Path, change: Callable[[Document], object], field: str | None, sentence: str
) -> None:
    with pytest.raises(BundleError, match=f"model.json: .*{sentence}") as caught:
        open_bundle(alter(copy, change))

    assert caught.value.field == field
    assert caught.value.path == copy / "model.json"


def test_an_older_bundle_is_refused_with_the_command_that_exports_it_again(copy: Path) -> None:
    def change(document: Document) -> None:
        document["schema"] = 1
        document["provenance"] = {"command": "vdmrt export it.pth --config it.json --output it"}

    with pytest.raises(
        BundleError, match="reads schema 2, found 1; export the model again; .* command: vdmrt export it.pth"
    ):
        open_bundle(alter(copy, change))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            put("geometry", "policy", "window", value=5),
            r"graphs.fp32.fill: .* 'past_k.0' as \[1, 12, 5, 16\], found \[1, 12, 7, 16\]",
        ),
        (
            put("geometry", "requests", value=1),
            r"graphs.fp32.denoise: .* 'past_k.0' as \[1, 12, 7, 16\], found \[2, 12, ",
        ),
        (
            put("geometry", "context_frames", value=1),
            r"fill: .* 'context_k.0' as \[1, 2, 6, 16\], found \[1, 2, 12, 16\]",
        ),
        (
            put("geometry", "chunk_frames", value=2),
            r"fill: .* 'present_k.0' as \[1, 12, 2, 16\], found \[1, 12, 3, 16\]",
        ),
    ],
)
def test_a_geometry_that_differs_from_the_tensors_is_refused(
    copy: Path, change: Callable[[Document], object], sentence: str
) -> None:
    with pytest.raises(BundleError, match=sentence):
        open_bundle(alter(copy, change))


@pytest.mark.parametrize(
    ("stage", "role"),
    [
        ("denoise", "noise"),
        ("denoise", "positions"),
        ("fill", "positions"),
        ("fill", "context_index"),
        ("fill", "context_key"),
        ("denoise", "context_value"),
    ],
)
def test_a_missing_tensor_of_the_geometry_is_refused(copy: Path, stage: str, role: str) -> None:
    with pytest.raises(BundleError, match=f"graphs.fp32.{stage}: wanted one tensor of role '{role}'.*, found 0"):
        open_bundle(alter(copy, drop(stage, role)))


@pytest.mark.parametrize(
    ("stage", "role"), [("denoise", "guidance"), ("denoise", "text"), ("fill", "text"), ("fill", "text_mask")]
)
def test_a_missing_tensor_of_guidance_or_text_is_refused(
    text_bundle: Path, tmp_path: Path, stage: str, role: str
) -> None:
    copy = shutil.copytree(text_bundle, tmp_path / "copy")

    with pytest.raises(BundleError, match=f"graphs.fp32.{stage}: wanted one tensor of role '{role}', found 0"):
        open_bundle(alter(copy, drop(stage, role)))


def test_rope_needs_positions_of_the_keys(copy: Path) -> None:
    with pytest.raises(BundleError, match="graphs.fp32.fill: wanted one tensor of role 'key_positions', found 0"):
        open_bundle(alter(copy, put("geometry", "positions", "kind", value="rope")))


@pytest.mark.parametrize(
    ("stage", "role", "shapes"),
    [
        ("fill", "latent", r"\[1, 3, 4, 4, 6\], found \[1, 3, 4, 4, 5\]"),
        ("fill", "slot_valid", r"\[1, 7\], found \[1, 6\]"),
        ("denoise", "timesteps", r"\[2, 7\], found \[2, 6\]"),
        ("denoise", "coefficients", r"\[2, 7, 8\], found \[2, 7, 7\]"),
        ("denoise", "next_latent", r"\[2, 3, 4, 4, 6\], found \[2, 3, 4, 4, 5\]"),
    ],
)
def test_a_tensor_of_another_shape_is_refused(copy: Path, stage: str, role: str, shapes: str) -> None:
    with pytest.raises(BundleError, match=f"graphs.fp32.{stage}: the geometry needs '{role}' as {shapes}"):
        open_bundle(alter(copy, shorten(stage, role)))


def test_cache_tensors_of_two_dtypes_are_refused(copy: Path) -> None:
    def change(document: Document) -> None:
        tensors = document["graphs"]["fp32"]["denoise"]["inputs"]
        next(tensor for tensor in tensors if tensor["name"] == "past_v.1")["dtype"] = "float16"

    with pytest.raises(BundleError, match=r"one dtype for all cache tensors, found \['float16', 'float32'\]"):
        open_bundle(alter(copy, change))


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1, "geometry": {"slo', "schema: 1", "[" * 100_000, "\x80"])
def test_invalid_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match="model.json: is not valid JSON or is truncated: .*; export the bundle again"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("text", ["[]", "1", "null", '"schema"'])
def test_json_without_an_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(BundleError, match="found None; this is not a model.json of vdmrt"):
        open_bundle(tmp_path)


def test_a_folder_without_model_json_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=f"^{tmp_path}: not a bundle: it has no model.json; make one with vdmrt export"
    ):
        open_bundle(tmp_path)


def test_a_missing_folder_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere: not a bundle: it has no model.json"):
        open_bundle(tmp_path / "nowhere")


def test_a_file_is_not_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").touch()
    with pytest.raises(BundleError, match="weights.bin: not a bundle: it is a file; make one with vdmrt export"):
        open_bundle(tmp_path / "weights.bin")


def test_a_model_json_that_is_a_folder_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.json").mkdir()
    with pytest.raises(BundleError, match="model.json: cannot be read: Is a directory"):
        open_bundle(tmp_path)


def test_a_missing_file_is_named(copy: Path) -> None:
    bundle = open_bundle(copy)
    (copy / first_graph(bundle).file).unlink()
    with pytest.raises(BundleError, match="'graphs/fill.fp32.onnx' is missing"):
        bundle.verify()


def test_a_folder_in_place_of_a_file_is_missing(copy: Path) -> None:
    bundle = open_bundle(copy)
    (copy / first_graph(bundle).file).unlink()
    (copy / first_graph(bundle).file).mkdir()
    with pytest.raises(BundleError, match="'graphs/fill.fp32.onnx' is missing"):
        bundle.locate(first_graph(bundle))


def test_an_altered_file_of_the_same_length_fails_its_hash(copy: Path) -> None:
    weights = copy / "graphs" / "weights.fp32.bin"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    sentence = r"weights.fp32.bin: wanted SHA-256 [0-9a-f]{16}…, found [0-9a-f]{16}…; the file was altered"
    with pytest.raises(BundleError, match=sentence):
        open_bundle(copy).verify()


def test_a_truncated_file_fails_its_length(copy: Path) -> None:
    bundle = open_bundle(copy)
    wanted = first_graph(bundle).nbytes
    os.truncate(copy / first_graph(bundle).file, wanted - 1)
    with pytest.raises(BundleError, match=f"wanted {wanted} bytes, found {wanted - 1}; the file is truncated"):
        bundle.locate(first_graph(bundle))


@pytest.mark.parametrize(
    "name", ["../model.json", "graphs/../../x", "/etc/passwd", "graphs\\fill.onnx", "", ".", "graphs/\0"]
)
def test_a_path_that_leaves_the_bundle_is_refused(tiny_bundle: Path, name: str) -> None:
    bundle = open_bundle(tiny_bundle)
    with pytest.raises(BundleError, match="leaves the bundle; paths must be relative and stay inside it") as caught:
        bundle.locate(Artifact(name, "", 0))

    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("linked", ["graphs", "graphs/fill.fp32.onnx"])
def test_a_link_is_refused_wherever_it_points(copy: Path, linked: str) -> None:
    shutil.move(copy / linked, copy / "moved")
    (copy / linked).symlink_to(copy / "moved")
    bundle = open_bundle(copy)
    with pytest.raises(BundleError, match="'graphs/fill.fp32.onnx' is a link; a bundle contains regular files only"):
        bundle.locate(first_graph(bundle))


def test_a_missing_precision_lists_those_of_the_bundle(text_bundle: Path) -> None:
    with pytest.raises(BundleError, match="has fp32, not 'fp16'; export again with --precision fp16"):
        open_bundle(text_bundle).graphs(FP16)


def test_a_folder_that_is_not_a_bundle_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "final.tex").touch()
    with (
        pytest.raises(BundleError, match="thesis: already exists and is not a bundle; choose another place"),
        new_bundle(tmp_path / "thesis", replace=True),
    ):
        pass

    assert (tmp_path / "thesis" / "final.tex").exists()


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to(path)])
def test_a_file_is_never_replaced_by_a_bundle(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "bundle")
    with pytest.raises(BundleError, match="already exists and is not a bundle"), new_bundle(tmp_path / "bundle"):
        pass


def test_a_bundle_is_not_replaced_without_replace(copy: Path) -> None:
    sentence = "already exists; choose another place, or replace it with --force"
    with pytest.raises(BundleError, match=sentence), new_bundle(copy):
        pass


def test_the_parent_folder_must_exist(tmp_path: Path) -> None:
    sentence = f"cannot be written: '{tmp_path}/no' is not a folder; make it first"
    with pytest.raises(BundleError, match=sentence), new_bundle(tmp_path / "no" / "bundle"):
        pass


def test_the_parent_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(BundleError, match="file' is not a folder; make it first"),
        new_bundle(tmp_path / "file" / "bundle"),
    ):
        pass


def test_a_name_that_the_file_system_rejects_raises_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be written: File name too long"), new_bundle(tmp_path / ("x" * 300)):
        pass


FILL_THE_DISK = """
import resource, signal, sys
from vdmrt.bundle import new_bundle
from vdmrt.errors import BundleError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with new_bundle(sys.argv[1], replace=True) as writer, (writer.path / "weights.bin").open("wb") as file:
        file.write(bytes(200_000))
except BundleError as error:
    print(error)
"""


def test_a_full_disk_leaves_only_the_old_bundle(copy: Path) -> None:
    before = sorted(copy.rglob("*"))
    command = [sys.executable, "-c", FILL_THE_DISK, str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.stdout.startswith(f"'{copy}' cannot be written: "), done.stderr
    assert done.stdout.endswith("; nothing was left half written\n")
    assert sorted(copy.rglob("*")) == before
    assert list(copy.parent.iterdir()) == [copy]
