"""Bundles that many tests share, exported once a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdmrt.export import ExportOptions, TransformerConfig, export_bundle, random_model

TINY = TransformerConfig(
    latent_size=(4, 6),
    hidden_size=32,
    depth=2,
    heads=2,
    position_count=12,
    mask_channel=True,
    context="previous",
    context_frames=2,
)
# Predicting v keeps the latents of random weights bounded.
TINY_OPTIONS = ExportOptions(
    precisions=("fp32", "fp16"), chunk_frames=3, slots=7, requests=2, max_steps=6, prediction="v"
)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random weights: two requests, chunks of 3, 7 slots, 6 steps, both precisions. Not to be changed."""
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    return export_bundle(random_model(TINY, 1), folder, TINY_OPTIONS, name="tiny", random_weights=True).path


@pytest.fixture(scope="session")
def text_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with text and guidance, absolute positions, no context: chunks of 2, 4 slots. Not to be changed."""
    config = TransformerConfig(
        latent_size=(4, 4), hidden_size=32, depth=2, heads=2, positions="absolute", position_count=9,
        text_width=8, text_tokens=5, learned_variance=False,
    )  # fmt: skip
    options = ExportOptions(chunk_frames=2, slots=4, max_steps=4, prediction="v", stochastic=False)
    folder = tmp_path_factory.mktemp("text") / "bundle"
    return export_bundle(random_model(config, 2), folder, options, name="text", random_weights=True).path
