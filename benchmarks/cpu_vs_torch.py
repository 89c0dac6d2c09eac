"""Speed on a CPU of vdmrt's cache and graphs, compared with the same model without them.

vdmrt runs from an engine (vdmrt build --backend onnxruntime); the exported graphs are timed too.

Every figure is a ratio of neighboring runs, two threads on each side, no spinning; medians of 15. The rollouts are
composed of these medians: 10 chunks of 20 denoising steps over prefixes of 1, 9, 17 and then 25 latent frames.
Exit status 1 when a limit is missed.
"""

from __future__ import annotations

import os

# Before torch and numpy are imported: idle OpenMP threads must not use the CPU that the other side runs on.
os.environ.update({"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"})

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import torch
from measuring import Gate, interleave, ratio, report

import vdmrt
from vdmrt.bundle import FP32, BundleWriter, Role, TensorSpec, open_bundle
from vdmrt.engines import build_models
from vdmrt.engines.onnxruntime.cpu_forms import CPU_FORMS
from vdmrt.engines.onnxruntime.rewrites import rewrite
from vdmrt.export import ExportOptions, export_bundle, load_config, predict_uncached, random_model
from vdmrt.export.families.ca2vdm.graphs import DenoiseGraph
from vdmrt.export.families.ca2vdm.transformer import CausalTransformer
from vdmrt.export.onnx_graph import Exportable, export_graphs
from vdmrt.runtime import Model, Session

THREADS, RUNS, CHUNKS, STEPS = 2, 15, 10, 20
CHUNK, SLOTS, LATENT = 8, 25, (16, 16)
PREFIXES = (1, 9, 17, 25)


class UncachedGraph(Exportable):
    """The denoising pass without a cache, over a prefix of fixed length."""

    def __init__(self, model: CausalTransformer, clean: int) -> None:
        super().__init__()
        config = model.config
        self.model, self.clean = model, clean
        shape = (1, clean + CHUNK, config.latent_channels, *config.latent_size)
        out = (1, CHUNK, config.output_channels, *config.latent_size)
        self.inputs = (
            TensorSpec("latents", "float32", shape, Role.LATENT),
            TensorSpec("timesteps", "float32", shape[:2], Role.TIMESTEPS),
        )
        self.outputs = (TensorSpec("predicted", "float32", out, Role.NEXT_LATENT),)

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Predict for the chunk."""
        start = torch.zeros(1, dtype=torch.int32)
        return predict_uncached(self.model, latents, timesteps, clean=self.clean, start=start)[:, self.clean :]


def main() -> int:
    """Measure everything and report."""
    torch.set_num_threads(THREADS)
    model = random_model(load_config("CausalSTDiT2-S/2", latent_size=LATENT), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        say("exporting the cached graphs")
        # v, because with untrained weights that predict epsilon the latents diverge.
        options = ExportOptions(prediction="v", chunk_frames=CHUNK, slots=SLOTS)
        bundle = export_bundle(model, Path(folder) / "bundle", options, name="S/2", random_weights=True)
        say("building the engine")
        build_models(open_bundle(bundle.path))
        with vdmrt.load(bundle.path, threads=THREADS) as loaded:
            with vdmrt.load(bundle.path, threads=THREADS, use_engine=False) as exported:
                gates, details = measure_steps(model, loaded, exported)
            more, uncached = measure_rollouts(model, loaded, Path(folder) / "uncached", details)
            flat = measure_flatness(loaded)
    settings = {"model": "CausalSTDiT2-S/2", "latent": LATENT, "chunk": CHUNK, "slots": SLOTS, "threads": THREADS,
                "runs": RUNS, "chunks": CHUNKS, "steps": STEPS}  # fmt: skip
    return report("cpu_vs_torch", settings, gates + more + flat, {**details, **uncached})


def measure_steps(model: CausalTransformer, loaded: Model, exported: Model) -> tuple[list[Gate], dict[str, Any]]:
    """Time a denoising step at a full cache, plain matrix products, and the torch module."""
    say("one denoising step at a full cache")
    session = full_session(loaded)
    step = denoising_step(session)
    product, product_flops = gemm()
    contenders = {
        "gemm": product,
        "vdmrt": step,
        "as_exported": denoising_step(full_session(exported)),
        "bare_products": bare_products(loaded),
        "torch": torch_step(model, loaded),
    }
    times = interleave(contenders, RUNS)
    step_flops = loaded.manifest.graphs[FP32]["denoise"].flops
    share = ratio(times["gemm"], times["vdmrt"]) * step_flops / product_flops
    chunk = session.step()
    outside = chunk.timings.total_ms - sum(chunk.timings.denoise_ms) - chunk.timings.fill_ms
    outside_share = outside / STEPS / statistics.median(chunk.timings.denoise_ms)
    session.close()
    gates = [
        Gate("GFLOP/s of a denoising step over those of a product", share, least=0.65),
        Gate("denoising step over its bare matrix products", ratio(times["vdmrt"], times["bare_products"]), most=1.15),
        Gate("denoising step, torch over vdmrt", ratio(times["torch"], times["vdmrt"]), least=1.35),
        Gate("time outside ONNX Runtime, percent of a denoising step", 100 * outside_share, most=1.0),
    ]
    details = {f"{name}_ms": 1e3 * statistics.median(values) for name, values in times.items()}
    for name in ("as_exported", "bare_products"):
        details[f"torch_over_{name}"] = ratio(times["torch"], times[name])
    details["step_gflop_per_s"] = step_flops / statistics.median(times["vdmrt"]) / 1e9
    return gates, details


def measure_rollouts(
    model: CausalTransformer, loaded: Model, folder: Path, details: dict[str, Any]
) -> tuple[list[Gate], dict[str, Any]]:
    """Compare a rollout with the cache and recomputing the conditioning frames, in ONNX Runtime and in torch."""
    session = full_session(loaded)
    step, fill = denoising_step(session), cache_fill(session)
    cached, others, medians = 0.0, {"onnxruntime": 0.0, "torch": 0.0}, {}
    for prefix in PREFIXES:
        say(f"recomputing a prefix of {prefix} latent frames")
        graph = UncachedGraph(model, prefix)
        contenders = {
            "cached": step,
            "fill": fill,
            "onnxruntime": uncached_onnx(graph, folder),
            "torch": eager(graph),
        }
        times = interleave(contenders, RUNS, warmup=1)
        median = {name: statistics.median(values) for name, values in times.items()}
        medians[str(prefix)] = {f"{name}_ms": 1e3 * value for name, value in median.items()}
        chunks = CHUNKS - len(PREFIXES) + 1 if prefix == PREFIXES[-1] else 1
        cached += chunks * (STEPS * median["cached"] + median["fill"])
        for name in others:
            others[name] += chunks * STEPS * median[name]
    session.close()
    say("a real rollout, to compare with the composed figure")
    real = real_rollout(loaded)
    gates = [
        Gate("rollout, recomputing in ONNX Runtime over vdmrt", others["onnxruntime"] / cached, least=2.8),
        Gate("rollout, recomputing in torch over vdmrt", others["torch"] / cached, least=4.0),
    ]
    seconds = {
        "rollout_composed_s": cached,
        "rollout_real_s": real,
        **{f"rollout_{k}_s": v for k, v in others.items()},
    }
    return gates, {**seconds, "by_prefix": medians}


def measure_flatness(loaded: Model) -> list[Gate]:
    """Compare autoregressive steps 100 and 5, with two sessions in turn."""
    say("autoregressive step 100 against step 5")
    late, early = started(loaded, 1), started(loaded, 2)
    frames = np.zeros((CHUNK, *loaded.manifest.geometry.latent_shape), np.float32)
    for session, chunks in ((late, 99), (early, 4)):
        for _ in range(chunks):
            session.extend(frames)
    times = interleave({"late": late.step, "early": early.step}, RUNS, warmup=1)
    for session in (late, early):
        session.close()
    change = abs(ratio(times["late"], times["early"]) - 1)
    return [Gate("cost of autoregressive step 100 against step 5, percent apart", 100 * change, most=3.0)]


def started(loaded: Model, seed: int, steps: int = 2) -> Session:
    """Return a session that continues from one frame."""
    session = loaded.session(seed=seed, sampler="ddpm", steps=steps)
    session.start(np.zeros((1, *loaded.manifest.geometry.latent_shape), np.float32))
    return session


def full_session(loaded: Model) -> Session:
    """Return a session whose cache is full."""
    session = started(loaded, 0, STEPS)
    session.extend(np.random.default_rng(0).standard_normal((SLOTS - 1, *loaded.manifest.geometry.latent_shape)))
    return session


def denoising_step(session: Session) -> Callable[[], object]:
    """Return a function that runs the denoise graph as a session does."""
    return lambda: session.lane.denoising.run(1)


def cache_fill(session: Session) -> Callable[[], object]:
    """Return a function that fills the cache as a session does."""
    frames = np.zeros((CHUNK, *session.lane.geometry.latent_shape), np.float32)
    return lambda: session.extend(frames)


def real_rollout(loaded: Model) -> float:
    """Return the seconds of a rollout as a user runs it."""
    with started(loaded, 3, STEPS) as session:
        began = time.perf_counter()
        for _ in session.stream(CHUNKS):
            pass
        return time.perf_counter() - began


def torch_step(model: CausalTransformer, loaded: Model) -> Callable[[], object]:
    """Return a function that runs the same denoising step in torch, with scaled_dot_product_attention."""
    graph = DenoiseGraph(model, loaded.manifest.geometry)
    return eager(graph)


def eager(graph: Exportable) -> Callable[[], object]:
    """Return a function that runs a module in torch."""
    inputs = [torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in graph.inputs]

    def run() -> object:
        with torch.inference_mode():
            return graph(*inputs)

    return run


def uncached_onnx(graph: UncachedGraph, folder: Path) -> Callable[[], object]:
    """Export a module, rewrite it like an engine's graphs, and return a function that runs it in ONNX Runtime."""
    place = folder.with_name(f"{folder.name}{graph.clean}")
    place.joinpath("graphs").mkdir(parents=True)

    export_graphs({"uncached": graph}, BundleWriter(place), "fp32", lambda stage: None)
    exported, rewritten = (place / "graphs" / f"uncached.{kind}.onnx" for kind in ("fp32", "rewritten"))
    rewriting = onnx_ir.load(exported)
    rewrite(rewriting, CPU_FORMS)
    onnx_ir.save(rewriting, rewritten, external_data="uncached.rewritten.bin")
    session = onnxruntime.InferenceSession(rewritten, runtime_options())
    feeds = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in graph.inputs}
    return lambda: session.run(None, feeds)


def gemm() -> tuple[Callable[[], object], int]:
    """Return a function that runs ten products [512, 384] × [384, 1536] in ONNX Runtime, and their operations."""
    rows, inner, columns, repeats = 512, 384, 1536, 10
    return products([((rows, inner), (inner, columns))], repeats), repeats * 2 * rows * inner * columns


def bare_products(loaded: Model) -> Callable[[], object]:
    """Return a function that runs only the matrix products of a denoising step's blocks, a lower bound of its time."""
    g = loaded.manifest.geometry
    rows, frames, heads, width, size = CHUNK * g.tokens_per_frame, CHUNK, g.heads, g.heads * g.head_size, g.head_size
    tokens, lines, seen = g.tokens_per_frame, g.tokens_per_frame * g.heads, SLOTS + CHUNK
    context = g.context_frames * tokens
    linears = [3 * width, width, width, width, 3 * width, width, 4 * width]
    shapes = [((rows, width), (width, out)) for out in linears] + [((rows, 4 * width), (4 * width, width))]
    shapes += [((frames * heads, tokens, size), (frames * heads, size, tokens))]
    shapes += [((frames * heads, tokens, tokens), (frames * heads, tokens, size))]
    shapes += [((heads, rows, size), (heads, size, context)), ((heads, rows, context), (heads, context, size))]
    shapes += [((lines, frames, size), (lines, size, seen)), ((lines, frames, seen), (lines, seen, size))]
    return products(shapes, g.layers)


def products(shapes: list[tuple[tuple[int, ...], tuple[int, ...]]], repeats: int) -> Callable[[], object]:
    """Return a function that runs products of these shapes ``repeats`` times; the right side of a 2-D one is a weight.

    Inputs and outputs are bound, as a lane binds them, so that nothing is allocated or copied.
    """
    rng = np.random.default_rng(0)
    nodes, weights, bound = [], [], []
    inputs: list[onnx.ValueInfoProto] = []
    outputs: list[onnx.ValueInfoProto] = []
    for index, (left, right) in enumerate(shapes):
        x, w, y = (f"{name}{index}" for name in "xwy")
        nodes.append(onnx.helper.make_node("MatMul", [x, w], [y]))
        is_weight = len(right) == 2
        if is_weight:
            weights.append(onnx.numpy_helper.from_array(rng.standard_normal(right).astype(np.float32), w))
        given = [(inputs, x, left), (outputs, y, (*left[:-1], right[-1]))] + ([] if is_weight else [(inputs, w, right)])
        for side, name, shape in given:
            side.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
            value = onnxruntime.OrtValue.ortvalue_from_numpy(rng.standard_normal(shape).astype(np.float32))
            bound.append((side is inputs, name, value))
    graph = onnx.helper.make_graph(nodes, "products", inputs, outputs, weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), runtime_options())
    binding = session.io_binding()
    for is_input, name, value in bound:
        (binding.bind_ortvalue_input if is_input else binding.bind_ortvalue_output)(name, value)

    def run() -> None:
        for _ in range(repeats):
            session.run_with_iobinding(binding)

    return run


def runtime_options() -> onnxruntime.SessionOptions:
    """Return the options that the backend uses."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def say(what: str) -> None:
    """Print progress on stderr."""
    print(f"… {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
