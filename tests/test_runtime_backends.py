"""How little a backend is: one of a few dozen lines runs a session, and all of them are held to the same."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from golden import relative_error
from reference_backend import ReferenceBackend

import vdmrt
from vdmrt.bundle import FP32, open_bundle
from vdmrt.runtime import Model
from vdmrt.runtime.backends import backend as waist

FIRST = np.random.default_rng(0).standard_normal((5, 4, 4, 6)).astype(np.float32)


def latents_of(model: Model) -> npt.NDArray[np.float32]:
    """Make chunks until the cache has wrapped."""
    with model.session(seed=3, sampler="ddim", steps=2) as session:
        session.start(FIRST)
        return np.concatenate([chunk.latents for chunk in session.stream(2)])


def test_a_backend_of_a_few_dozen_lines_runs_a_session(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_bundle, tmp_path / "bundle")  # onnx refuses weights that another test has linked to
    with Model(open_bundle(copy), ReferenceBackend(), FP32) as model:
        made = latents_of(model)
        pictures = None if model.codec is None else model.codec.decode(made[:2])
    with vdmrt.load(tiny_bundle, device="cpu", precision="fp32", threads=1) as model:
        wanted = latents_of(model)

    assert relative_error(made, wanted) < 1e-5
    assert pictures is not None and pictures.shape == (2, 32, 48, 3)


def test_the_waist_is_three_protocols_of_few_methods() -> None:
    found = {
        name: sorted(each for each in vars(getattr(waist, name)) if not each.startswith("_"))
        for name in ("Backend", "Program", "Call")
    }

    assert found == {
        "Backend": ["close", "describe", "device_name", "load", "name", "open_device"],
        "Program": ["bind", "capturable", "close", "scratch_nbytes"],
        "Call": ["close", "enqueue"],
    }
    assert list(inspect.signature(waist.Backend.load).parameters) == ["self", "source"]


@pytest.mark.parametrize("name", ["text", "engine", "threads", "device_name", "name"])
def test_nothing_of_a_models_backend_can_be_set(tiny_bundle: Path, name: str) -> None:
    with vdmrt.load(tiny_bundle, device="cpu", precision="fp32", threads=1) as model, pytest.raises(AttributeError):
        setattr(model.backend, name, None)


def test_a_model_names_its_engine_and_has_none_of_exported_graphs(tiny_bundle: Path) -> None:
    with vdmrt.load(tiny_bundle, device="cpu", precision="fp32", threads=1) as model:
        assert (model.engine, model.describe()) == (None, model.backend.describe())
