"""Kernels that TensorRT for RTX makes of XL/2 at 256 × 256 in FP16, for each form of its graphs; needs no GPU.

Exports CausalSTDiT2-XL/2 with random weights, writes its graphs in each form and compiles them without a target.
Kernels and bytes are facts of the compiled plan, the bytes as if no cache kept any of them. Rooflines are arithmetic on
the plan, not measurements: the sum over kernels of the longest of launch, bytes and FLOPs on a GeForce RTX 4090 as its
data sheet has it. Exit status 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from measuring import Gate, report

from vdmrt.bundle import CACHE_ROLES, FP16, Bundle, Stage, open_bundle
from vdmrt.engines import read_layers
from vdmrt.engines.kernels.card import CARD
from vdmrt.engines.kernels.kernel import make_kernels
from vdmrt.engines.tensorrt.functions import (
    FORMS,
    HEADS_FIRST,
    ONE_KEY_TENSOR,
    SUMS_OF_PRODUCTS,
    THREE_VIEWS,
    Form,
    choose_forms,
    find_shapes,
    write_out,
)
from vdmrt.engines.tensorrt.layers import Layer
from vdmrt.engines.tensorrt.residuals import flatten_residuals
from vdmrt.engines.tensorrt.rtx.build_log import inspection_of
from vdmrt.export import ExportOptions, export_bundle, load_config, random_model
from vdmrt.hosts.tensorrt.rtx import open_tensorrt_rtx

RESIDUALS = "residuals added in two dimensions"
AS_EXPORTED = FORMS["Attention"][0]
FULL_DEPTH = 28


@dataclass(frozen=True)
class Variant:
    """A way to write a graph.

    Attributes:
        name: What it changes.
        forms: Names of the forms that it uses; None for those that builds choose.
        flatten: Whether residuals are added in two dimensions.
    """

    name: str
    forms: tuple[str, ...] | None
    flatten: bool = False


EXPORTED, CHOSEN = Variant("as exported", ()), Variant("all, as built", None, flatten=True)
ALONE = [Variant(f"{one} alone", (one,)) for one in (ONE_KEY_TENSOR, SUMS_OF_PRODUCTS, THREE_VIEWS, HEADS_FIRST)]
FUSED = Variant(f"all, without {SUMS_OF_PRODUCTS}", (THREE_VIEWS, HEADS_FIRST), flatten=True)
VARIANTS = {
    Stage.DENOISE: [EXPORTED, *ALONE, Variant(f"{RESIDUALS} alone", (), flatten=True), FUSED, CHOSEN],
    Stage.FILL: [EXPORTED, FUSED, CHOSEN],
}


def main() -> int:
    """Export, compile the forms of both stages and report."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--depth", type=int, default=FULL_DEPTH, help=f"number of blocks; limits are for {FULL_DEPTH}")
    options.add_argument("--bundle", type=Path, help="use this bundle instead of exporting one")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = open_bundle(given.bundle) if given.bundle else export(Path(folder) / "bundle", given.depth)
        rows = [compile_variant(bundle, stage, one) for stage, variants in VARIANTS.items() for one in variants]
    denoise = next(row for row in rows if (row["stage"], row["form"]) == (Stage.DENOISE, CHOSEN.name))
    gates = (
        []
        if bundle.manifest.geometry.layers != FULL_DEPTH
        else [
            Gate("denoise, kernels", denoise["kernels"], most=640),
            Gate("denoise, roofline ms", denoise["roofline_ms"], most=26.0),
            Gate("denoise, reads of a cached tensor", denoise["most_reads_of_a_cached_tensor"], most=1),
        ]
    )
    settings = {
        "model": "CausalSTDiT2-XL/2", "latent": [32, 32], "precision": "fp16", "depth": bundle.manifest.geometry.layers,
        "tensorrt_rtx": open_tensorrt_rtx().version, "target": "none", "card": CARD.name,
        "gb_s": CARD.bandwidth_gb_s, "half_tflops": CARD.half_tflops, "single_tflops": CARD.single_tflops,
        "launch_us": CARD.launch_us,
    }  # fmt: skip
    return report("kernels", settings, gates, {"forms": rows})


def export(folder: Path, depth: int) -> Bundle:
    """Export XL/2 with random weights."""
    say(f"exporting XL/2, {depth} blocks")
    config = dataclasses.replace(load_config("CausalSTDiT2-XL/2", latent_size=(32, 32)), depth=depth)
    options = ExportOptions(precisions=(FP16,), prediction="v")
    return export_bundle(random_model(config, 0), folder, options, name="XL/2", random_weights=True)


def compile_variant(bundle: Bundle, stage: Stage, variant: Variant) -> dict[str, Any]:
    """Compile a stage's graph in one form; return its figures."""
    say(f"{stage}: {variant.name}")
    graph = bundle.manifest.graphs[FP16][stage]
    path = bundle.locate(graph.file)
    # Beside the exported graph, whose weights it reads.
    written = path.with_name(f"{path.stem}.variant.onnx")
    try:
        onnx.save(write(onnx.load(str(path), load_external_data=False), variant), written)
        layers = compile_layers(written)
    finally:
        written.unlink(missing_ok=True)
    cache = {spec.name for spec in graph.inputs if spec.role in CACHE_ROLES}
    return {"stage": str(stage), "form": variant.name, **figures_of(layers, cache)}


def write(model: onnx.ModelProto, variant: Variant) -> onnx.ModelProto:
    """Return a graph of a bundle in one form, its functions written out."""
    if variant.flatten:
        flatten_residuals(model, find_shapes(model))
    chosen = choose_forms(model)
    if variant.forms is not None:
        chosen = {name: choose(FORMS[name], variant.forms) for name in chosen}
    return write_out(model, chosen)[0]


def choose(forms: Sequence[Form], names: Sequence[str]) -> Form:
    """Return the form of a function with one of the given names, or the exported body."""
    return next((form for form in forms if form.name in names), AS_EXPORTED)


def compile_layers(path: Path) -> list[Layer]:
    """Compile a graph for no target; return the layers of its plan."""
    rtx = open_tensorrt_rtx()
    builder = rtx.module.Builder(rtx.log.logger)
    network = builder.create_network(0)
    parser = rtx.module.OnnxParser(network, rtx.log.logger)
    if not parser.parse_from_file(str(path)):
        sys.exit(f"{path}: {rtx.log.take_errors()}")
    config = builder.create_builder_config()
    config.profiling_verbosity = rtx.module.ProfilingVerbosity.DETAILED
    with rtx.log.collect_layers() as lines:
        if builder.build_serialized_network(network, config) is None:
            sys.exit(f"{path}: {rtx.log.take_errors()}")
    return list(read_layers(inspection_of(lines)))


def figures_of(layers: Sequence[Layer], cache: set[str]) -> dict[str, Any]:
    """Count kernels, and sum bytes and rooflines."""
    kernels = make_kernels(layers, {}, cache)
    reads = collections.Counter(side.name for kernel in kernels for side in kernel.cached)
    return {
        "kernels": len(kernels),
        "fused_attentions": sum(kernel.work == "attention" for kernel in kernels),
        "moved_mb": round(sum(kernel.nbytes for kernel in kernels) / 1e6, 1),
        "moved_by_kernels_that_compute_nothing_mb": round(
            sum(kernel.nbytes for kernel in kernels if not kernel.computes) / 1e6, 1
        ),
        "roofline_ms": round(sum(kernel.roofline_us for kernel in kernels) / 1e3, 2),
        "most_reads_of_a_cached_tensor": max(reads.values()),
    }


def say(text: str) -> None:
    """Print what is being done."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
