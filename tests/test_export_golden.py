"""The torch module compared with recorded results of the original code."""

from __future__ import annotations

from functools import cache

import golden
import numpy as np
import pytest
import torch
from golden import Array, Case, assert_close
from torch import Tensor

from vdmrt.export.checkpoint import load_model, read_checkpoint
from vdmrt.export.families.ca2vdm.arguments import config_from_arguments
from vdmrt.export.families.ca2vdm.graphs import DenoiseGraph, FillGraph, update
from vdmrt.export.families.ca2vdm.transformer import CausalTransformer
from vdmrt.export.families.ca2vdm.uncached import predict_uncached
from vdmrt.export.options import ExportOptions, make_geometry
from vdmrt.runtime.sampling.samplers import make_sampler
from vdmrt.runtime.sampling.schedules import Schedule

CASES = golden.cases()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@cache
def model_of(case: Case) -> CausalTransformer:
    model: CausalTransformer = load_model(config_from_arguments(case.config["model"]), case.folder)
    return model


class Cached:
    """The two graph modules, run eagerly row by row over caches that this class keeps in frame order."""

    def __init__(self, case: Case, chunk: int, slots: int) -> None:
        options = ExportOptions(chunk_frames=chunk, slots=slots, max_steps=2, guidance=False)
        self.geometry = make_geometry(model_of(case).config, options)
        self.case = case
        self.fill = FillGraph(model_of(case), self.geometry)
        self.denoise = DenoiseGraph(model_of(case), self.geometry)
        self.past: dict[str, Tensor] = {}
        self.context: dict[str, Tensor] = {}
        self.written = 0

    def write(self, latents: Array, row: int) -> dict[str, Tensor]:
        """Fill the cache with frames [c, n, h, w] of one row; return the graph's outputs."""
        count = latents.shape[1]
        named = self._inputs(self.fill, row)
        named["latent"][0, :count] = torch.from_numpy(golden.frames_first(latents))
        if "context_index" in named:
            named["context_index"][0] = torch.from_numpy(self._context_index(count))
        outputs = self._run(self.fill, named)
        for name in [name for name in outputs if name.startswith("present")]:
            frames = outputs[name][:, :, :count]
            past = name.replace("present", "past")
            self.past[past] = torch.cat([self.past[past], frames], dim=2) if past in self.past else frames
        if self.geometry.context == "previous" or not self.context:
            self.context = {name: value for name, value in outputs.items() if name.startswith("context")}
        self.written += count
        return outputs

    def predict(self, latents: Array, timestep: float, row: int) -> Array:
        """Return the raw network output [o, T, h, w] for noisy frames [c, T, h, w] of one row."""
        named = self._inputs(self.denoise, row)
        named["latent"][0] = torch.from_numpy(golden.frames_first(latents))
        with torch.no_grad():
            predicted = self.denoise.predict(named, torch.tensor([timestep]))
        return golden.frames_first(predicted[0].numpy())

    def _inputs(self, graph: FillGraph | DenoiseGraph, row: int) -> dict[str, Tensor]:
        g, named = self.geometry, {}
        for spec in graph.inputs:
            named[spec.name] = torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
            past = self.past.get(spec.name)
            if past is not None:
                named[spec.name][:, :, : self.written] = past
        named.update({name: value for name, value in self.context.items() if name in named})
        named["slot_valid"][:, : self.written] = 1
        positions = torch.arange(self.written, self.written + g.chunk_frames, dtype=torch.int32)
        named["positions"][0] = positions % g.positions.count
        if "key_positions" in named:
            named["key_positions"][0, : g.slots] = torch.arange(g.slots)
            named["key_positions"][0, g.slots :] = positions
        if "text" in named:
            named["text"][0] = torch.from_numpy(self.case.tensors["text.y"][row, 0])
            mask = self.case.text_mask(row)
            named["text_mask"][0] = torch.ones(self.geometry.text_tokens) if mask is None else torch.from_numpy(mask)
        return named

    def _context_index(self, count: int) -> Array:
        frames = self.geometry.context_frames
        if self.geometry.context == "first":
            return np.zeros(frames, np.int32)
        repeated = np.repeat(np.arange(count), frames // count + 1) if count < frames else np.arange(count)[-frames:]
        return repeated[:frames].astype(np.int32)

    @staticmethod
    def _run(graph: FillGraph, named: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            outputs = graph(*(named[spec.name] for spec in graph.inputs))
        return {spec.name: tensor for spec, tensor in zip(graph.outputs, outputs, strict=True)}


def recorded(case: Case, outputs: dict[str, Tensor], stem: str, count: int) -> Array:
    """Rearrange K and V of a fill as recorded: [depth, n, S, 2C]."""
    g = model_of(case).config
    layers = []
    for layer in range(g.depth):
        pair = []
        for part in "kv":
            heads = outputs[f"{stem}_{part}.{layer}"][0].numpy()
            if stem == "present":  # [S*H, n, d]
                pair.append(heads.swapaxes(0, 1).reshape(-1, g.tokens_per_frame, g.hidden_size)[:count])
            else:  # [H, P*S, d]
                pair.append(heads.swapaxes(0, 1).reshape(-1, g.tokens_per_frame, g.hidden_size))
        layers.append(np.concatenate(pair, axis=-1))
    return np.stack(layers)


def check_write(case: Case, cached: Cached, record: str, row: int) -> None:
    latents = case.tensors[f"{record}.clean_x"][row]
    outputs = cached.write(latents, row)

    atol, count = case.atol("single_call"), latents.shape[1]
    written = recorded(case, outputs, "present", count)
    assert_close(f"{record} K and V", written, case.tensors[f"{record}.temporal_kv"][:, row], atol)
    if f"{record}.spatial_kv" in case.tensors:
        context = recorded(case, outputs, "context", count)
        assert_close(f"{record} context", context, case.tensors[f"{record}.spatial_kv"][:, row], atol)


@each_case
def test_state_dict_has_the_keys_and_shapes_of_the_reference(case: Case) -> None:
    model = model_of(case)

    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert found == {name: tuple(tensor.shape) for name, tensor in read_checkpoint(case.folder).tensors.items()}


@each_case
def test_saved_weights_are_those_of_the_reference(case: Case) -> None:
    saved = model_of(case).state_dict()

    for name, tensor in read_checkpoint(case.folder).tensors.items():
        if name != "bov_token":
            torch.testing.assert_close(saved[name], tensor, rtol=0, atol=1e-6 if "pos_embed" in name else 0)


@each_case
def test_writes_and_denoising_calls(case: Case) -> None:
    settings = case.config["single_call"]
    for row in range(len(case.tensors["denoise.x"])):
        cached = Cached(case, settings["chunk_len"], settings["kv_cache_max_seqlen"])
        check_write(case, cached, "write1", row)
        noisy = case.tensors["denoise.x"][row]
        for timestep in settings["timesteps"]:
            predicted = cached.predict(noisy, timestep, row)
            wanted = case.tensors[f"denoise.out_t{timestep}"][row]
            assert_close(f"denoise at {timestep}", predicted, wanted, case.atol("single_call"))
        if case.is_first_frame:
            continue  # the original's second write has no effect there (reference, section 9); rollout_fixed is valid
        check_write(case, cached, "write2", row)
        wanted = case.tensors["denoise2.out_t500"][row]
        assert_close("denoise2", cached.predict(noisy, 500, row), wanted, case.atol("single_call"))


@each_case
def test_first_writes_of_several_frames(case: Case) -> None:
    for record in ("write_first2", "write_first5"):
        if f"{record}.clean_x" in case.tensors:
            latents = case.tensors[f"{record}.clean_x"]
            chunk = max(latents.shape[2], model_of(case).config.context_frames)
            for row in range(len(latents)):
                check_write(case, Cached(case, chunk, 25), record, row)


@each_case
def test_sub_modules_compute_what_was_traced(case: Case) -> None:
    traced = [name.removeprefix("trace.") for name in case.tensors if name.startswith("trace.")]
    settings = case.config["single_call"]
    for row in range(len(case.tensors["denoise.x"])):
        cached = Cached(case, settings["chunk_len"], settings["kv_cache_max_seqlen"])
        cached.write(case.tensors["write1.clean_x"][row], row)
        found = capture(cached, traced, case.tensors["denoise.x"][row], row)
        for name in traced:
            wanted = traced_row(case, name, row)
            assert_close(name, found[name].reshape(wanted.shape), wanted, case.atol("single_call"))


def capture(cached: Cached, names: list[str], noisy: Array, row: int) -> dict[str, Array]:
    """Run one call at timestep 500 and return the outputs of the named sub-modules, frames before positions."""
    model, found, hooks = cached.denoise.model, {}, []
    for name in names:
        path = f"{name}.proj" if name.split(".")[-1].startswith(("attn", "cross_attn")) else name

        def keep(_module: object, _inputs: object, output: Tensor, name: str = name) -> None:
            found[name] = output.numpy()

        hooks.append(model.get_submodule(path).register_forward_hook(keep))
    cached.predict(noisy, 500, row)
    for hook in hooks:
        hook.remove()
    return found


def traced_row(case: Case, name: str, row: int) -> Array:
    """Return one row of a trace, with frames before positions as in vdmrt's modules."""
    config, batch = model_of(case).config, len(case.tensors["denoise.x"])
    trace = case.tensors[f"trace.{name}"]
    rows = trace.reshape(batch, -1, *trace.shape[1:])[row] if len(trace) != batch else trace[row]
    if name.endswith("attn_temp"):  # recorded as [S, T, C]
        rows = np.ascontiguousarray(rows.swapaxes(0, 1)).reshape(-1, config.hidden_size)
    recorded_row: Array = rows
    return recorded_row


def check_uncached_rollout(case: Case, rollout: str) -> None:
    settings, tensors = case.config["rollouts"][rollout], case.tensors
    model, chunk, slots = model_of(case), settings["chunk_len"], settings["kv_cache_max_seqlen"]
    table = make_sampler(
        "iddpm",
        steps=settings["num_sampling_steps"],
        prediction="epsilon",
        schedule=Schedule(),
        learned_variance=True,
    )
    video = torch.from_numpy(tensors[f"{rollout}.cond"]).transpose(1, 2)
    wanted = torch.from_numpy(tensors[f"{rollout}.uncached_latents"]).transpose(1, 2)
    for index in range(settings["ar_steps"]):
        first = video.shape[1]
        prefix = video[:, -slots:]
        latent = torch.from_numpy(tensors[f"{rollout}.init_noise"][:, :, first : first + chunk]).transpose(1, 2)
        for step in range(table.steps):
            noise = torch.from_numpy(tensors[f"{rollout}.step_noise"][index, step]).transpose(1, 2)
            predicted = uncached_step(model, prefix, latent, first, float(table.timesteps[step]))
            row = torch.from_numpy(table.coefficients[step : step + 1].copy()).expand(len(video), -1)
            channels = latent.shape[2]
            latent, _ = update(
                row,
                latent,
                predicted[:, :, :channels],
                torch.zeros_like(latent),
                predicted[:, :, channels:],
                noise,
            )
        video = torch.cat([video, latent], dim=1)

    assert_close("uncached latents", video.numpy(), wanted.numpy(), case.atol(rollout))


def uncached_step(model: CausalTransformer, prefix: Tensor, latent: Tensor, first: int, timestep: float) -> Tensor:
    frames = torch.cat([prefix, latent], dim=1)
    clean = prefix.shape[1]
    timesteps = torch.zeros(frames.shape[:2])
    timesteps[:, clean:] = timestep
    start = torch.full((len(frames),), first - clean)
    with torch.no_grad():
        return predict_uncached(model, frames, timesteps, clean=clean, start=start)[:, clean:]


@pytest.mark.parametrize("schedule", golden.schedules(), ids=lambda case: case.name)
def test_update_reproduces_the_scheduler(schedule: Case) -> None:
    for steps in schedule.config["num_sampling_steps"]:
        table = make_sampler("iddpm", steps=steps, prediction="epsilon", schedule=Schedule(), learned_variance=True)
        x, noise, out = (
            torch.from_numpy(schedule.tensors[f"n{steps}.{name}"]) for name in ("x_t", "noise", "model_out")
        )
        for k in {0, 1, steps // 2, steps - 1}:
            row = torch.from_numpy(table.coefficients[steps - 1 - k].copy()).expand(len(x), -1)
            sample, clean = update(row, x, out[:, : x.shape[1]], torch.zeros_like(x), out[:, x.shape[1] :], noise)
            for name, found in (("sample", sample), ("pred_xstart", clean)):
                wanted = schedule.tensors[f"n{steps}.p{k}.{name}"]
                assert_close(f"n{steps}.p{k}.{name}", found.numpy(), wanted, 2e-6 * max(1.0, np.abs(wanted).max()))


@each_case
def test_uncached_forward_equals_the_cached_call_and_the_recorded_rollouts(case: Case) -> None:
    for rollout in case.config["rollouts"]:
        if f"{rollout}.uncached_latents" in case.tensors:
            check_uncached_rollout(case, rollout)
    check_uncached_call(case)


def check_uncached_call(case: Case) -> None:
    """The uncached forward equals the recorded cached call as long as no frame was evicted."""
    settings, config = case.config["single_call"], model_of(case).config
    cached = Cached(case, settings["chunk_len"], settings["kv_cache_max_seqlen"])
    clean = case.tensors["write1.clean_x"][0]
    cached.write(clean, 0)
    noisy = case.tensors["denoise.x"][0]
    text = mask = None
    if config.text_width:
        text = torch.from_numpy(case.tensors["text.y"][:1, 0])
        counted = case.text_mask(0)
        mask = None if counted is None else torch.from_numpy(counted)[None]
    frames = torch.from_numpy(golden.frames_first(np.concatenate([clean, noisy], axis=1)))[None]
    timesteps = torch.tensor([[0.0] * clean.shape[1] + [500.0] * noisy.shape[1]])

    with torch.no_grad():
        found = predict_uncached(
            model_of(case), frames, timesteps, clean=clean.shape[1], start=torch.zeros(1, dtype=torch.long),
            text=text, text_mask=mask,
        )[0, clean.shape[1] :]  # fmt: skip
    wanted = case.tensors["denoise.out_t500"][0]
    assert_close("uncached", golden.frames_first(found.numpy()), wanted, case.atol("single_call"))
