"""The graphs of causal Wan in ONNX Runtime, with a cache whose slots never move."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from golden import Array
from golden_wan import WanCase
from reference_rollout import CachedFrame, Stream, frame_angles, split
from reference_sampler import FlowGrid
from torch import Tensor
from wan_replay import Replay, load_case

from vdmrt.bundle import BundleWriter, CachePolicy, Graph, Role
from vdmrt.export.families.wan.attention import KeyValue
from vdmrt.export.families.wan.config import NO_WINDOW
from vdmrt.export.families.wan.geometry import make_geometry, visible_ring
from vdmrt.export.families.wan.graphs import DenoiseGraph, FillGraph, PromptGraph
from vdmrt.export.families.wan.rotary import frame_table
from vdmrt.export.families.wan.transformer import CausalWan
from vdmrt.export.onnx_graph import export_graphs

__all__ = ["GraphReplay", "GraphStream", "Program", "export_programs", "sampler_table", "slot_of"]

Feed = Mapping[str, Array]


class Program:
    """A graph in ONNX Runtime."""

    def __init__(self, path: Path, graph: Graph) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.graph = graph
        self.model = onnx.load(path, load_external_data=False)
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, feed: Feed) -> dict[str, Tensor]:
        """Run with the inputs that the graph has; others are left out."""
        own = {spec.name: np.ascontiguousarray(feed[spec.name], spec.dtype) for spec in self.graph.inputs}
        found = self._session.run(None, own)
        return {spec.name: torch.from_numpy(one) for spec, one in zip(self.graph.outputs, found, strict=True)}

    def pairs(self, feed: Feed) -> list[KeyValue]:
        """Run a graph whose outputs are keys and values, and return a pair for each layer."""
        found = list(self.run(feed).values())
        return list(zip(found[0::2], found[1::2], strict=True))


def export_programs(
    model: CausalWan, *, requests: int, max_steps: int, slots: int, per_frame: bool = False
) -> dict[str, Program]:
    """Export the graphs of a model in float32 and load them."""
    geometry = make_geometry(model.config, requests=requests, max_steps=max_steps, slots=slots)
    modules = {
        "prompt": PromptGraph(model, geometry),
        "fill": FillGraph(model, geometry),
        "denoise": DenoiseGraph(model, geometry, per_frame=per_frame),
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "graphs").mkdir()
        graphs = export_graphs(modules, BundleWriter(Path(folder)), "fp32", lambda stage: None)
        return {stage: Program(Path(folder) / graph.file.file, graph) for stage, graph in graphs.items()}


@cache
def case_programs(case: WanCase, *, per_frame: bool) -> dict[str, Program]:
    """Return the graphs of a recorded case."""
    frames = case.first_frame(case.config["chunks"])
    steps = max(len(case.timesteps(chunk)) for chunk in range(case.config["chunks"]))
    return export_programs(
        load_case(case), requests=case.config["batch"], max_steps=steps, slots=frames, per_frame=per_frame
    )


def slot_of(frame: int, policy: CachePolicy) -> int:
    """Return the slot of a latent frame: the first ones are pinned, the others are a ring."""
    return frame if frame < policy.sinks else policy.sinks + (frame - policy.sinks) % policy.window


def _identity_row() -> Array:
    """Return the coefficients of a finished request: its latent stays as it is."""
    return np.array([1, 0, 1, 0, 0, 0, 0, 0], np.float32)


def sampler_table(timesteps: Sequence[float], grid: FlowGrid, count: int) -> tuple[Array, Array]:
    """Return timesteps [N] and coefficients [N, 8] of "x0, then renoise", ``count`` N, the last rows the identity."""
    levels = grid.sigma(torch.tensor(timesteps)).tolist()
    rows = [
        np.array([1, -level, 0, 1 - after, 0, after, 0, 0], np.float32)
        for level, after in zip(levels, [*levels[1:], 0.0], strict=True)
    ]
    rest = count - len(rows)
    return np.array([*timesteps, *[0.0] * rest], np.float32), np.stack([*rows, *[_identity_row()] * rest])


class GraphStream(Stream):
    """A stream whose passes are the graphs. ``cached`` is kept only to check the ring against it."""

    def __init__(self, model: CausalWan, text: list[KeyValue], programs: dict[str, Program]) -> None:
        super().__init__(model, text, model.config)
        self.programs = programs
        geometry = make_geometry(
            model.config, requests=len(text[0][0]), max_steps=1, slots=self._slots(programs["denoise"].graph)
        )
        self.ring, self.tokens = geometry.policy, geometry.tokens_per_frame
        shape = geometry.cache_shape(geometry.requests, geometry.slots)
        self.slots = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(geometry.layers)]
        self.frames = np.full(geometry.slots, -1)

    def commit(self, latents: Tensor, start: int) -> list[KeyValue]:
        """Run the fill graph for each request, and place what it returns in its slots."""
        rows = [self._fill(latents, start, row) for row in range(len(latents))]
        written = [
            (torch.cat([key for key, _ in layer]), torch.cat([value for _, value in layer]))
            for layer in zip(*rows, strict=True)
        ]
        made = split(written, start, latents.shape[1])
        self.cached += made
        for frame in made:
            self._place(frame, slot_of(frame.number, self.ring))
        return written

    def refill(self, latents: Tensor, frame: int, text: list[KeyValue], *, global_sink: bool) -> Tensor:
        """Change the prompt as the torch module does it, and place the new cache in its slots."""
        flow = super().refill(latents, frame, text, global_sink=global_sink)
        self.frames[:] = -1
        for index, cached in enumerate(self.cached):
            self._place(cached, index if index < self.ring.sinks else slot_of(cached.number, self.ring))
        return flow

    def run(self, x_t: Tensor, start: int, sampler: Feed) -> dict[str, Tensor]:
        """Run the denoise graph for a chunk [R, T, c, h, w] with the sampler's tensors."""
        return self.programs["denoise"].run({**self.feed(x_t, start), **sampler})

    def _fill(self, latents: Tensor, start: int, row: int) -> list[KeyValue]:
        feed = self.feed(latents, start)
        return self.programs["fill"].pairs({name: one[row : row + 1] for name, one in feed.items()})

    def feed(self, latent: Tensor, start: int) -> dict[str, Array]:
        """Return the inputs that fill and denoise share, for a chunk [R, T, c, h, w]."""
        rows = len(latent)
        visible = self._visible(start)
        turn = frame_table(self.policy.sink_shift(start), self.policy.head_size)
        feed = {
            "latent": latent.numpy(),
            "positions": frame_angles(self.policy, start, latent.shape[1], rows).numpy(),
            "slot_valid": np.tile(visible, (rows, 1)),
            "sink_turn": np.tile(turn, (rows, 1, 1)),
        }
        for stem, layers in (("past", self.slots), ("text", self.text)):
            for layer, (key, value) in enumerate(layers):
                feed |= {f"{stem}_k.{layer}": key.numpy(), f"{stem}_v.{layer}": value.numpy()}
        return feed

    def _visible(self, start: int) -> Array:
        """Return 1 for each slot that a chunk sees; the reference's cache must hold the same latent frames."""
        first = 0 if self.policy.window_frames == NO_WINDOW else start - visible_ring(self.policy)
        pinned = np.arange(len(self.frames)) < self.ring.sinks
        visible = (self.frames >= 0) & (pinned | (self.frames >= first))
        assert sorted(self.frames[visible]) == sorted(frame.number for frame in self.cached)
        return visible.astype(np.float32)

    def _place(self, frame: CachedFrame, slot: int) -> None:
        self.frames[slot] = frame.number
        columns = slice(slot * self.tokens, (slot + 1) * self.tokens)
        for slots, pair in zip(self.slots, frame.pairs, strict=True):
            for whole, part in zip(slots, pair, strict=True):
                whole[:, :, columns] = part

    @staticmethod
    def _slots(denoise: Graph) -> int:
        return next(spec.shape[1] for spec in denoise.inputs if spec.role is Role.SLOT_VALID)


class GraphReplay(Replay):
    """A recorded rollout on the graphs, the prompt's included."""

    def __init__(self, case: WanCase, rollout: str, *, per_frame: bool = False) -> None:
        super().__init__(case, rollout, load_case(case))
        programs = case_programs(case, per_frame=per_frame)
        self.texts = {name: self._prompt(programs["prompt"], suffix) for name, suffix in case.prompts().items()}
        self.stream: GraphStream = GraphStream(self.model, self.texts["p0"], programs)

    def sampler(self, chunk: int, step: int, history: Tensor) -> dict[str, Array]:
        """Return the sampler's tensors of a call, with the recorded noise."""
        timesteps, count = self.case.timesteps(chunk), self._count()
        table, coefficients = sampler_table(timesteps, self.case.grid, count)
        rows, *latent = history.shape
        noise = np.zeros((rows, count, *latent), np.float32)
        source = self.case.noise_of(self.rollout)
        for index in range(len(timesteps) - 1):
            noise[:, index] = self.case.step(source, "step_noise", chunk, index).numpy()
        return {
            "step": np.full(rows, step),
            "timesteps": np.tile(table, (rows, 1)),
            "coefficients": np.tile(coefficients, (rows, 1, 1)),
            "noise": noise,
            "history": history.numpy(),
        }

    def _generate(self, chunk: int, noise: Tensor) -> Tensor:
        """Make one chunk; each step gets the latent, the step and the history that the previous one returned."""
        start = self.case.first_frame(chunk)
        self.stream.evict(noise.shape[1])
        sampler = self.sampler(chunk, 0, torch.zeros_like(noise))
        for _ in self.case.timesteps(chunk):
            found = self.stream.run(noise, start, sampler)
            noise = found["next_latent"]
            sampler |= {"step": found["next_step"].numpy(), "history": found["next_history"].numpy()}
        self.stream.commit(noise, start)
        return noise

    def _count(self) -> int:
        graph = self.stream.programs["denoise"].graph
        return next(spec.shape[1] for spec in graph.inputs if spec.role is Role.TIMESTEPS)

    def _prompt(self, program: Program, suffix: str) -> list[KeyValue]:
        context = self.case.tensor(f"text.context{suffix}").numpy()
        rows = [program.pairs({"text": context[row : row + 1]}) for row in range(len(context))]
        return [
            (torch.cat([key for key, _ in layer]), torch.cat([value for _, value in layer]))
            for layer in zip(*rows, strict=True)
        ]
