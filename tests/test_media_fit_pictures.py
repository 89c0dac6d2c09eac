"""Pictures of any size are fitted to a session's size, as by the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vdmrt
from vdmrt.errors import TensorMismatchError
from vdmrt.media import fit_pictures
from vdmrt.media.pictures import read_picture


def noise(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("size", [(20, 90), (90, 20), (64, 64)])
def test_an_array_is_fitted_as_its_file(tmp_path: Path, size: tuple[int, int]) -> None:
    picture = noise(*size, 3)
    Image.fromarray(picture).save(tmp_path / "a.png")

    fitted = fit_pictures(picture[None], (32, 48))

    assert np.array_equal(fitted, read_picture(tmp_path / "a.png", height=32, width=48))


def test_pictures_of_several_sizes_become_one_array() -> None:
    assert fit_pictures([noise(9, 8, 3), noise(70, 50, 3)], (32, 48)).shape == (2, 32, 48, 3)


def test_pictures_that_fit_are_unchanged() -> None:
    pictures = noise(2, 32, 48, 3)

    assert np.array_equal(fit_pictures(pictures, (32, 48)), pictures)


@pytest.mark.parametrize(
    ("pictures", "sentence"),
    [
        (noise(8, 8, 3), r"wanted uint8 \[n, height, width, 3\], found uint8 \[8, 3\] as picture 0"),
        ([noise(8, 8, 3), noise(8, 8, 4)], r"found uint8 \[8, 8, 4\] as picture 1"),
        (np.zeros((1, 8, 8, 3)), r"found float64 \[8, 8, 3\] as picture 0"),
        (noise(1, 0, 8, 3), r"found uint8 \[0, 8, 3\] as picture 0"),
        ([], "wanted at least 1 picture, found none"),
    ],
)
def test_an_array_that_is_not_a_picture_is_refused(pictures: Any, sentence: str) -> None:
    with pytest.raises(TensorMismatchError, match=f"'pictures': .*{sentence}"):
        fit_pictures(pictures, (32, 48))


def test_a_size_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        fit_pictures(noise(1, 8, 8, 3), (32, 0))


def test_a_session_starts_from_fitted_pictures(tiny_bundle: Path) -> None:
    with vdmrt.load(tiny_bundle, device="cpu", threads=1) as model, model.session(steps=2) as session:
        assert model.codec is not None
        session.start(fit_pictures(noise(2, 100, 70, 3), model.codec.picture_size))

        assert session.next_latent_frame == 2
