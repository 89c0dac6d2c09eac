"""Operations of a denoising step in model.json, compared with torch's counter and with a count by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import TEXT, TINY
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vdmrt.bundle import FP32, Bundle, open_bundle
from vdmrt.export import ExportOptions, TransformerConfig, export_bundle, random_model
from vdmrt.export.families.ca2vdm.graphs import DenoiseGraph

ROPE = TransformerConfig(latent_size=(4, 4), hidden_size=48, depth=3, heads=3, positions="rope", position_count=8)


@pytest.fixture(scope="module")
def rope_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle with rotary positions and three blocks."""
    options = ExportOptions(chunk_frames=2, slots=6, max_steps=4, prediction="v")
    folder = tmp_path_factory.mktemp("rope") / "bundle"
    return export_bundle(random_model(ROPE, 3), folder, options, name="rope", random_weights=True).path


def count_in_torch(config: TransformerConfig, bundle: Bundle) -> int:
    """Return the count of torch's counter while the module of a denoising step runs on zeros."""
    module = DenoiseGraph(random_model(config, 0), bundle.manifest.geometry).eval()
    tensors = [torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in module.inputs]
    # The counter counts the products of an attention, but not the CPU's fused kernel.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*tensors)
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("name", "config"), [("tiny", TINY), ("text", TEXT), ("rope", ROPE)])
def test_operations_equal_the_count_of_torch(
    name: str, config: TransformerConfig, request: pytest.FixtureRequest
) -> None:
    bundle = open_bundle(request.getfixturevalue(f"{name}_bundle"))

    assert bundle.manifest.graphs[FP32]["denoise"].flops == pytest.approx(count_in_torch(config, bundle), rel=0.01)


def test_operations_equal_a_count_by_hand(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    g, width, patch = manifest.geometry, TINY.hidden_size, TINY.patch_size**2
    tokens = g.rows * g.chunk_frames * g.tokens_per_frame
    # attn 4C², attn_cf q and proj 2C², attn_temp 4C², mlp 8C²; then each query's products with keys and with values.
    keys = g.tokens_per_frame + g.context_frames * g.tokens_per_frame + g.slots + g.chunk_frames
    blocks = g.layers * tokens * (18 * width * width + 2 * keys * width)
    mask = tokens * (width + 1) * width  # merged in the first block
    timestep = g.requests * (256 * width + width * width + 6 * width * width)
    patches = tokens * width * patch * (TINY.latent_channels + TINY.output_channels)

    assert manifest.graphs[FP32]["denoise"].flops == 2 * (blocks + mask + timestep + patches)
