"""The full-size model's denoising step in torch: eager, compiled, each also as a CUDA graph, and without the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..checks.ceilings import COPY_NBYTES, LARGE, copy_run, import_torch, product_run
from ..checks.device_clock import time_each
from .chunk import FirstChunk
from .weights import load_parameters, read_layout

__all__ = ["TorchSteps"]

WARMUP = 3


class TorchSteps:
    """The contender: named runs of one denoising step of the module that is exported.

    Of torch.compile's modes, "reduce-overhead" captures CUDA graphs itself; the others are captured here too.

    Attributes:
        runs: By name.
        notes: What it took to make them, and what could not be made.
    """

    def __init__(self, folder: Path, device: str, modes: tuple[str, ...], *, uncached: str | None) -> None:
        torch = import_torch(device)
        torch.set_grad_enabled(False)
        torch.backends.cuda.matmul.allow_tf32 = False
        # The graphs make small tensors (a causal bias, line numbers) on the default device.
        torch.set_default_device(device)
        from vdmrt.bundle import open_bundle
        from vdmrt.export.families.ca2vdm.graphs import DenoiseGraph, FillGraph

        self.device = device
        self.runs: dict[str, Callable[[], Any]] = {}
        self.notes: dict[str, Any] = {"torch": torch.__version__}
        self.bundle = open_bundle(folder)
        geometry = self.bundle.manifest.geometry
        self.model = load_module(folder)
        self.graph, self.fill = DenoiseGraph(self.model, geometry).eval(), FillGraph(self.model, geometry).eval()
        self.inputs = [_filled(spec) for spec in self.graph.inputs]
        for tensor in self.inputs:
            if device != "cpu":
                torch._dynamo.mark_static_address(tensor)
        self._add("torch eager", lambda: self.graph(*self.inputs))
        for mode in modes:
            self._add_compiled(mode)
        if uncached is not None:
            self._add_uncached(compiled=uncached == "compiled")
        side, nbytes = (256, 1 << 20) if device == "cpu" else (LARGE, COPY_NBYTES)
        self.notes |= {"ceiling_flops": 2 * side**3, "ceiling_nbytes": 2 * nbytes}
        self._add("ceiling product", product_run(side, side, side, "float16", device), graph=False)
        self._add("ceiling copy", copy_run(nbytes, device), graph=False)

    def ready(self) -> dict[str, Any]:
        """Return what the report keeps."""
        return self.notes

    def time(self, name: str, count: int) -> dict[str, list[float]]:
        """Return the milliseconds of ``count`` runs."""
        return {"ms": time_each(self.runs[name], count, self.device)}

    def first_chunk(self, chunk: FirstChunk) -> np.ndarray[Any, Any]:
        """Return the latents after one denoising step from one given frame, as the runtime makes them."""
        import torch

        fill = [torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in self.fill.inputs]
        named = {spec.name: tensor for spec, tensor in zip(self.fill.inputs, fill, strict=True)}
        _set(named, chunk.fill_inputs())
        made = {spec.name: t for spec, t in zip(self.fill.outputs, self.fill(*fill), strict=True)}
        denoise = [torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in self.graph.inputs]
        named = {spec.name: tensor for spec, tensor in zip(self.graph.inputs, denoise, strict=True)}
        _set(named, chunk.denoise_inputs())
        for name, tensor in made.items():
            if name.startswith("present_"):
                named[name.replace("present_", "past_")][:, :, :1] = tensor[:, :, :1]
            else:
                named[name].copy_(tensor)
        found: np.ndarray[Any, Any] = self.graph(*denoise)[0][0].float().cpu().numpy()
        return found

    def _add(self, name: str, run: Callable[[], Any], *, graph: bool = True) -> None:
        """Warm a run up and keep it, and its CUDA graph; note why where that fails."""
        started = time.perf_counter()
        try:
            time_each(run, WARMUP, self.device)
        except Exception as error:  # one way that fails must not take the others with it
            self.notes[name] = f"failed: {type(error).__name__}: {str(error)[:500]}"
            return
        self.notes[f"{name}, seconds to make"] = round(time.perf_counter() - started, 1)
        self.runs[name] = run
        if graph and self.device != "cpu":
            try:
                self.runs[f"{name}, CUDA graph"] = _captured(run)
            except Exception as error:  # as above
                self.notes[f"{name}, CUDA graph"] = f"failed: {type(error).__name__}: {str(error)[:500]}"

    def _add_compiled(self, mode: str) -> None:
        import torch

        if self.device == "cpu" and mode != "default":
            return
        compiled = torch.compile(self.graph, mode=mode, dynamic=False)
        self._add(f"torch.compile {mode}", lambda: compiled(*self.inputs), graph=mode != "reduce-overhead")

    def _add_uncached(self, *, compiled: bool) -> None:
        """Recompute everything that the cache holds, at a full window."""
        import torch

        from vdmrt.export import predict_uncached

        g = self.bundle.manifest.geometry
        rows, frames = g.rows_per_request, g.slots + g.chunk_frames
        latents = torch.randn(rows, frames, *g.latent_shape)
        timesteps = torch.zeros(rows, frames)
        timesteps[:, g.slots :] = 500.0
        start = torch.zeros(rows, dtype=torch.int64)
        text = torch.randn(rows, g.text_tokens, g.text_width) if g.text_width else None

        def run() -> Any:
            return predict_uncached(self.model, latents, timesteps, clean=g.slots, start=start, text=text)

        self._add("torch eager without a cache", run)
        if compiled:
            self._add("torch.compile default without a cache", torch.compile(run, dynamic=False))


def load_module(folder: Path) -> Any:
    """Return the module of a bundle that :func:`weights.make_weights` made, with the bundle's own weights."""
    import torch

    from vdmrt.export import TransformerConfig
    from vdmrt.export.families.ca2vdm.transformer import CausalTransformer

    config = read_layout(folder)["config"]
    config["latent_size"] = tuple(config["latent_size"])
    model = CausalTransformer(TransformerConfig(**config)).eval().requires_grad_(False).use_half_weights()
    given: Mapping[str, np.ndarray[Any, Any]] = load_parameters(folder)
    for name, parameter in model.named_parameters():
        parameter.copy_(torch.from_numpy(np.array(given[name])).reshape(parameter.shape))
    return model


def _filled(spec: Any) -> Any:
    """Return an input as it is in the middle of a rollout: full cache, random numbers, a step in the table."""
    import torch

    dtype = getattr(torch, spec.dtype)
    if spec.dtype == "int32":
        return torch.zeros(spec.shape, dtype=dtype)
    if spec.name in ("slot_valid", "text_mask", "guidance"):
        return torch.ones(spec.shape, dtype=dtype)
    if spec.name == "timesteps":
        return torch.full(spec.shape, 500.0, dtype=dtype)
    return torch.randn(spec.shape, dtype=torch.float32).to(dtype)


def _set(named: Mapping[str, Any], values: Mapping[str, np.ndarray[Any, Any]]) -> None:
    import torch

    for name, value in values.items():
        if name in named:
            named[name].copy_(torch.from_numpy(np.ascontiguousarray(value)).reshape(named[name].shape))


def _captured(run: Callable[[], Any]) -> Callable[[], Any]:
    import torch

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay
