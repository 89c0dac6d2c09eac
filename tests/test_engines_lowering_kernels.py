"""Lowered graphs of two XL/2 blocks at 256 × 256 compile to few kernels that move little."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path

import pytest
from rtx_kernels import compile_kernels

from vdmrt.bundle import FP16
from vdmrt.engines import lower_graphs
from vdmrt.export import ExportOptions, export_bundle, load_config, random_model


@pytest.fixture(scope="module")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the lowered graphs of two blocks with random weights, by stage."""
    config = dataclasses.replace(load_config("CausalSTDiT2-XL/2", latent_size=(32, 32)), depth=2)
    folder = tmp_path_factory.mktemp("xl") / "bundle"
    options = ExportOptions(precisions=(FP16,), prediction="v")
    bundle = export_bundle(random_model(config, 0), folder, options, name="XL/2", random_weights=True)
    return lower_graphs(bundle, FP16, release="rtx")


# Measured with TensorRT for RTX 1.7.1, with two percent more bytes than it moves.
@pytest.mark.parametrize(
    ("stage", "most", "most_moved_mb", "most_idle_mb"), [("denoise", 52, 1013, 455), ("fill", 41, 859, 409)]
)
def test_two_blocks_take_few_kernels(
    stage: str, most: int, most_moved_mb: float, most_idle_mb: float, lowered: dict[str, Path]
) -> None:
    kernels = compile_kernels(lowered[stage])

    assert len(kernels) <= most
    assert sum(kernel.nbytes_moved for kernel in kernels) / 1e6 <= most_moved_mb
    assert sum(kernel.nbytes_moved for kernel in kernels if not kernel.is_product) / 1e6 <= most_idle_mb
    reads = collections.Counter(side.name for kernel in kernels for side in kernel.inputs if "past_" in side.name)
    assert len(reads) == {"denoise": 4, "fill": 2}[stage]
    assert set(reads.values()) == {1}
