"""The smallest models with all features, for the shared bundles."""

from __future__ import annotations

from vdmrt.bundle import FP16, FP32
from vdmrt.export import ExportOptions, TransformerConfig

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
TINY_OPTIONS = ExportOptions(precisions=(FP32, FP16), chunk_frames=3, slots=7, requests=2, max_steps=6, prediction="v")
TEXT = TransformerConfig(
    latent_size=(4, 4),
    hidden_size=32,
    depth=2,
    heads=2,
    positions="absolute",
    position_count=9,
    text_width=8,
    text_tokens=5,
    learned_variance=False,
)
TEXT_OPTIONS = ExportOptions(chunk_frames=2, slots=4, max_steps=4, prediction="v", stochastic=False)
