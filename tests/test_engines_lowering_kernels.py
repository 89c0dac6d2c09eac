"""Two XL/2 blocks at 256 × 256 compile to few kernels that move little, and multiply in 8 bits what is quantized."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path

import pytest
from quantized_graphs import quantize_stage
from rtx_kernels import build_stage, kernels_of

from vdmrt.bundle import FP16, Bundle
from vdmrt.export import ExportOptions, export_bundle, load_config, random_model


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Return two blocks with random weights."""
    config = dataclasses.replace(load_config("CausalSTDiT2-XL/2", latent_size=(32, 32)), depth=2)
    folder = tmp_path_factory.mktemp("xl") / "bundle"
    options = ExportOptions(precisions=(FP16,), prediction="v")
    return export_bundle(random_model(config, 0), folder, options, name="XL/2", random_weights=True)


# Measured with TensorRT for RTX 1.7.1, with two percent more bytes than it moves.
@pytest.mark.parametrize(
    ("stage", "most", "most_moved_mb", "most_idle_mb"), [("denoise", 52, 1013, 455), ("fill", 41, 859, 409)]
)
def test_two_blocks_take_few_kernels(
    stage: str, most: int, most_moved_mb: float, most_idle_mb: float, xl: Bundle, tmp_path: Path
) -> None:
    kernels = kernels_of(build_stage(xl, stage, tmp_path))

    assert len(kernels) <= most
    assert sum(kernel.nbytes_moved for kernel in kernels) / 1e6 <= most_moved_mb
    assert sum(kernel.nbytes_moved for kernel in kernels if not kernel.is_product) / 1e6 <= most_idle_mb
    reads = collections.Counter(side.name for kernel in kernels for side in kernel.inputs if "past_" in side.name)
    assert len(reads) == {"denoise": 4, "fill": 2}[stage]
    assert set(reads.values()) == {1}


@pytest.mark.parametrize("precision", ["int8-fp16", "fp8-kvf8"])
def test_quantized_blocks_multiply_in_8_bits(precision: str, xl: Bundle, tmp_path: Path) -> None:
    audit = build_stage(quantize_stage(xl, "denoise", precision, tmp_path), "denoise", tmp_path).audit

    assert audit is not None
    assert (audit.quantized_weights, audit.quantized_products, audit.widened_weights) == (16, 16, 0)
