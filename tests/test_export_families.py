"""A user's own model family works with everything, without changes in the package."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from toy_family import SINKS, Toy, ToyConfig, ToyModel, roll_out

import vdmrt
from vdmrt.bundle import FP32, CacheLayout, CachePolicy, Precision, Role, Stage, open_bundle
from vdmrt.calibration.calibrating import CalibrationRequest, calibrate
from vdmrt.cli import main
from vdmrt.errors import ExportError
from vdmrt.export import ExportOptions, export_bundle, load_config, load_model, random_model, register_family
from vdmrt.profiler import Settings, profile
from vdmrt.runtime.sampling.noise import Noise

CHUNK, SLOTS, STEPS = 3, 7, 2


@pytest.fixture(scope="module")
def model() -> ToyModel:
    made: ToyModel = random_model(ToyConfig(), 5)
    return made


@pytest.fixture(scope="module")
def toy_bundle(model: ToyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ExportOptions(chunk_frames=CHUNK, slots=SLOTS, requests=2, max_steps=4, prediction="flow")
    return export_bundle(model, tmp_path_factory.mktemp("toy") / "bundle", options, name="toy").path


def rolled(bundle: Path, precision: Precision, drawn: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Start with the first drawn chunk, generate from the others, and return the generated frames."""
    with vdmrt.load(bundle, backend="onnxruntime", precision=precision) as model, model.session(steps=STEPS) as session:
        session.start(drawn[0])
        return np.concatenate([session.step(noise=Noise(initial=noise)).latents for noise in drawn[1:]])


def test_the_configuration_names_its_family(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_text(json.dumps({"family": "toy", "depth": 2, "heads": 4}))

    assert load_config(path) == ToyConfig(depth=2, heads=4)
    assert load_config(path, latent_size=(2, 6)).latent_size == (2, 6)
    assert load_config("toy-3") == ToyConfig()


def test_an_unknown_family_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_text(json.dumps({"family": "other"}))

    with pytest.raises(ExportError, match=r"it.json: unknown family 'other'; known are ca2vdm, .*toy"):
        load_config(path)


def test_a_family_name_is_unique() -> None:
    with pytest.raises(ValueError, match="there is a family 'toy' already; register it under another name"):
        register_family(Toy())


def test_a_checkpoint_is_loaded_by_the_names_of_the_family(model: ToyModel, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "it.safetensors")

    loaded = load_model(ToyConfig(), tmp_path / "it.safetensors").state_dict()

    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_the_bundle_records_the_family(toy_bundle: Path) -> None:
    manifest = open_bundle(toy_bundle).manifest
    denoise = manifest.graphs[FP32][Stage.DENOISE]

    assert manifest.family == "toy"
    assert (manifest.geometry.layout, manifest.geometry.policy) == (
        CacheLayout.JOINT,
        CachePolicy(SINKS, SLOTS - SINKS),
    )
    assert denoise.tensor(Role.PAST_KEY, layer=1).shape == (2, 2, SLOTS * 16, 8)
    assert denoise.with_role(Role.POSITIONS, Role.KEY_POSITIONS) == ()
    assert denoise.cache_copies == ()


def test_a_rollout_past_eviction_equals_torch(model: ToyModel, toy_bundle: Path) -> None:
    drawn = np.random.default_rng(3).standard_normal((6, CHUNK, 3, 4, 4)).astype(np.float32)

    made = rolled(toy_bundle, FP32, drawn)

    given, *noises = torch.from_numpy(drawn)
    wanted = roll_out(model, given, noises, SLOTS, STEPS)
    assert len(wanted) > 2 * SLOTS
    assert np.allclose(made, wanted[CHUNK:].numpy(), atol=1e-5)


def test_it_is_calibrated_to_int8(toy_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(toy_bundle, copy)
    drawn = np.random.default_rng(5).standard_normal((6, CHUNK, 3, 4, 4)).astype(np.float32)
    np.save(tmp_path / "clips.npy", drawn.reshape(2, -1, 3, 4, 4))

    summary = calibrate(CalibrationRequest(copy, tmp_path / "clips.npy", kv="int8", samples=12, threads=1))

    (precision,) = summary.precisions
    denoise = open_bundle(copy).manifest.graphs[precision][Stage.DENOISE]
    assert (denoise.quantized, denoise.tensor(Role.PAST_KEY, layer=0).dtype) == ("int8", "int8")
    assert summary.quantized == (18, 18)
    wanted, made = (rolled(path, kind, drawn) for path, kind in ((toy_bundle, FP32), (copy, precision)))
    assert 0 < np.abs(made - wanted).max() < 0.1


def test_it_is_inspected(toy_bundle: Path) -> None:
    shown = CliRunner().invoke(main, ["inspect", str(toy_bundle)], env={"COLUMNS": "200"})

    assert shown.exit_code == 0
    assert re.search(r"toy \(toy, predicts flow\)", shown.output)
    assert re.search(r"KV cache +joint, 7 slots with 2 sinks, 2 requests × 1 row", shown.output)
    assert re.search(r"positions +none", shown.output)
    assert re.search(r"fill +in +old past_key of 0 … +float32", shown.output)
    assert "past_key of 1" not in shown.output


def test_it_is_profiled_block_by_block(toy_bundle: Path) -> None:
    report = profile(Settings(toy_bundle, chunks=2, warmup=1, steps=STEPS, layers=True, roofline=False))

    assert {layer.block for layer in report.layers} == {-1, 0, 1, 2}
    assert report.memory.copied_nbytes == 0
