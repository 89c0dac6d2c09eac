"""The sky example: its renderer, one training step, and the demo's bundle."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vdmrt
from vdmrt.bundle import open_bundle
from vdmrt.export.families.ca2vdm.uncached import predict_uncached

FOLDER = Path(__file__).parents[1] / "examples" / "sky"
BUNDLE = FOLDER / "bundle"
# Modules of the example with common names, which must not stay imported for other tests.
NAMES = (
    "autoencoder",
    "checkpoint",
    "codec_training",
    "curves",
    "diffusion",
    "metrics",
    "packing",
    "sky",
    "transformer_training",
)


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    """The example's modules by name; it is not a package, and its files import each other."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def untrained_codec(example: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sky") / "codec.pt"
    example["codec_training"].CodecTraining(path, steps=1).save()
    return path


def make_training(example: Any, folder: Path, codec: Path, steps: int = 2) -> Any:
    """Return the training of a much smaller model."""
    module = example["transformer_training"]
    small = dataclasses.replace(module.CONFIG, hidden_size=48, depth=2)
    return module.TransformerTraining(folder / "transformer.pt", codec, steps, batch=1, config=small)


def test_a_sky_is_the_same_for_the_same_seed(example: Any) -> None:
    sky = example["sky"].Sky

    frames = sky(3).frames(5, 4)

    assert frames.shape == (4, 64, 64, 3) and frames.dtype == np.uint8
    assert (frames == sky(3).frames(0, 9)[5:]).all()
    assert (frames != sky(4).frames(5, 4)).any()


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 5])
def test_a_sky_moves_with_its_wind(example: Any, seed: int) -> None:
    sky = example["sky"].Sky(seed)

    found = example["metrics"].displacement(sky.frames(9, 8))

    assert 0.5 <= np.hypot(*sky.wind) <= 2.0
    assert example["metrics"].is_same_direction(found, sky.wind)
    assert found == pytest.approx(sky.wind, abs=0.4)


def test_a_sky_has_unlimited_length(example: Any) -> None:
    late = example["sky"].Sky(1).frames(10_000, 2)

    assert late.std() > 10
    assert 0 < np.abs(late[1].astype(int) - late[0]).mean() < 20


def test_a_clip_played_backwards_moves_the_other_way(example: Any) -> None:
    sky = example["sky"].Sky(1)

    found = example["metrics"].displacement(sky.frames(9, 8)[::-1])

    assert not example["metrics"].is_same_direction(found, sky.wind)
    assert example["metrics"].is_same_direction(found, (-sky.wind[0], -sky.wind[1]))


def test_the_oracle_moves_a_picture_by_whole_and_half_pixels(example: Any) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[1, 1] = 100

    moved = example["metrics"].shift_picture(picture, 1.0, 0.5)

    assert moved[2, 1, 0] == moved[2, 2, 0] == 50.0
    assert moved.sum() == 300.0


def test_the_autoencoder_maps_pictures_to_latents_and_back(example: Any) -> None:
    encoder, decoder = example["autoencoder"].Encoder(), example["autoencoder"].Decoder()

    latent = encoder(torch.zeros(2, 3, 64, 64))

    assert latent.shape == (2, 4, 16, 16)
    assert decoder(latent).shape == (2, 3, 64, 64)


def test_folding_the_scale_leaves_the_latents_as_they_were(example: Any) -> None:
    encoder = example["autoencoder"].Encoder()
    pictures = torch.rand(4, 3, 64, 64)
    encoder(pictures)  # sets the running statistics
    encoder.eval()
    wanted = encoder(pictures)

    torch.testing.assert_close(encoder.fold_norm()(pictures), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("start", [0, 30])
def test_a_packed_chunk_equals_a_separate_pass(example: Any, start: int) -> None:
    training, packing = example["transformer_training"], example["packing"]
    torch.manual_seed(0)
    model = training.CausalTransformer(training.CONFIG)
    layout = packing.Packing(9, (1, 9))
    latents, timesteps = torch.randn(1, layout.frames, 4, 16, 16), torch.tensor([[900.0, 40.0]])

    with torch.no_grad():
        x, embedding = packing.run_packed(model, layout, latents, timesteps, torch.tensor([start]))
        packed = model.final_layer.unpatchify(model.final_layer(x, embedding))[:, -8:]
        alone = torch.cat([latents[:, :9], latents[:, -8:]], dim=1)
        times = torch.tensor([[0.0] * 9 + [40.0] * 8])
        wanted = predict_uncached(model, alone, times, clean=9, start=torch.tensor([start]))[:, -8:]

    torch.testing.assert_close(packed, wanted, atol=1e-5, rtol=1e-4)


def test_one_step_of_training_lowers_the_loss_of_its_batch(example: Any, untrained_codec: Path, tmp_path: Path) -> None:
    training = make_training(example, tmp_path, untrained_codec)
    clips = training.make_batch(0)

    before = sum(training.advance(clips)[::2])
    training.losses.clear()  # the same noise once more
    after = sum(training.advance(clips)[::2])

    assert after < before


def test_a_resumed_training_equals_an_uninterrupted_one(example: Any, untrained_codec: Path, tmp_path: Path) -> None:
    whole = make_training(example, tmp_path / "whole", untrained_codec)
    list(whole.run())
    first = make_training(example, tmp_path / "parts", untrained_codec)
    first.advance(first.make_batch(0))
    first.save()

    second = make_training(example, tmp_path / "parts", untrained_codec)
    list(second.run())

    assert second.losses == whole.losses
    for one, other in zip(second.average.parameters(), whole.average.parameters(), strict=True):
        assert torch.equal(one, other)


def test_curves_are_written_as_a_picture(example: Any, tmp_path: Path) -> None:
    path = tmp_path / "curves.png"

    example["curves"].draw_curves(path, {"v": [1.0, 0.5, 0.2], "bound": [0.1, 0.1]}, title="loss", logarithmic=True)

    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 20_000


def test_the_demo_bundle_is_complete_and_small() -> None:
    bundle = open_bundle(BUNDLE)
    bundle.verify()

    assert sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file()) <= 12 * 2**20
    assert bundle.manifest.codec == "vae"
    assert not bundle.manifest.random_weights
    assert {"commit", "command"} <= set(bundle.manifest.provenance)


def test_the_demo_bundle_continues_an_unseen_sky(example: Any) -> None:
    clip = example["sky"].Sky(7).frames(0, 17)

    with vdmrt.load(BUNDLE, threads=1) as model, model.session(seed=0, sampler="ddim", steps=5) as session:
        session.start(clip[:9])
        made = session.step().pictures

    assert made.shape == (8, 64, 64, 3)
    assert example["metrics"].psnr(made, clip[9:]) > 15.0
