"""The preview codec: colors, shapes, and checks of its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vdmrt import load
from vdmrt.errors import TensorMismatchError
from vdmrt.export.codec import PreviewDecoder, PreviewEncoder
from vdmrt.runtime.session.codec import PictureCodec

HEIGHT, WIDTH = 32, 48
LEVELS = st.integers(0, 255)


@pytest.fixture(scope="module")
def codec(tiny_bundle: Path) -> Iterator[PictureCodec]:
    with load(tiny_bundle, threads=1) as model:
        assert model.codec is not None
        yield model.codec


def gradient() -> npt.NDArray[np.uint8]:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [20 + 5 * rows, 30 + 4 * columns, 200 - 2 * rows - 2 * columns]
    return np.stack(planes, axis=-1)[None].astype(np.uint8)


def test_the_codec_is_recorded_as_a_preview(codec: PictureCodec) -> None:
    assert codec.kind == "preview"
    assert codec.picture_size == (HEIGHT, WIDTH)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.tuples(LEVELS, LEVELS, LEVELS))
def test_a_single_color_is_preserved(codec: PictureCodec, color: tuple[int, int, int]) -> None:
    picture = np.full((1, HEIGHT, WIDTH, 3), color, np.uint8)
    decoded = codec.decode(codec.encode(picture))

    assert np.abs(decoded.astype(int) - picture).max() <= 1


def test_a_gradient_is_nearly_preserved(codec: PictureCodec) -> None:
    decoded = codec.decode(codec.encode(gradient()))
    inner = np.s_[:, 4:-4, 4:-4]

    assert np.abs(decoded.astype(int) - gradient())[inner].max() <= 2
    assert np.abs(decoded.astype(int) - gradient()).max() <= 20


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_pictures_are_encoded_independently(codec: PictureCodec, count: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)
    latents = codec.encode(pictures)
    decoded = codec.decode(latents)

    assert latents.shape == (count, 4, HEIGHT // 8, WIDTH // 8) and latents.dtype == np.float32
    assert decoded.shape == pictures.shape and decoded.dtype == np.uint8
    for index in range(count):
        np.testing.assert_array_equal(latents[index], codec.encode(pictures[index : index + 1])[0])
        np.testing.assert_array_equal(decoded[index], codec.decode(latents[index : index + 1])[0])


def test_latents_beyond_the_colors_are_clipped(codec: PictureCodec) -> None:
    latents = np.full((1, 4, HEIGHT // 8, WIDTH // 8), 9, np.float32)
    latents[:, 1] = -9

    np.testing.assert_array_equal(codec.decode(latents)[0, 0, 0], [255, 0, 255])


@pytest.mark.parametrize("shape", [(4, 5, 7), (3, 2, 2), (16, 4, 4)])
def test_decoding_and_encoding_a_smooth_latent_is_the_identity(shape: tuple[int, int, int]) -> None:
    latent = torch.full((2, *shape), 0.7)
    pictures = PreviewDecoder(shape, 2)(latent)

    torch.testing.assert_close(PreviewEncoder(shape)(pictures), latent)


@pytest.mark.parametrize(
    ("shape", "dtype", "found"),
    [
        ((1, HEIGHT, HEIGHT, 3), np.uint8, r"uint8 \[1, 32, 32, 3\]"),
        ((HEIGHT, WIDTH, 3), np.uint8, r"uint8 \[32, 48, 3\]"),
        ((1, HEIGHT, WIDTH, 4), np.uint8, r"uint8 \[1, 32, 48, 4\]"),
        ((1, 3, HEIGHT, WIDTH), np.uint8, r"uint8 \[1, 3, 32, 48\]"),
        ((1, HEIGHT, WIDTH, 3), np.float32, r"float32 \[1, 32, 48, 3\]"),
        ((1, HEIGHT, WIDTH, 3), np.int16, r"int16 \[1, 32, 48, 3\]"),
    ],
)
def test_other_pictures_are_refused(
    codec: PictureCodec, shape: tuple[int, ...], dtype: type[np.generic], found: str
) -> None:
    with pytest.raises(TensorMismatchError, match=rf"'pictures': wanted uint8 \[n, 32, 48, 3\], found {found}"):
        codec.encode(np.zeros(shape, dtype))


def test_other_latents_are_refused(codec: PictureCodec) -> None:
    sentence = r"'latents': wanted \[n, c, h, w\] = \[any, 4, 4, 6\], found \[1, 4, 6, 4\]"
    with pytest.raises(TensorMismatchError, match=sentence):
        codec.decode(np.zeros((1, 4, 6, 4), np.float32))
