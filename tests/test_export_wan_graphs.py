"""The graphs of causal Wan: their tensors, and properties that no recorded case of the repository shows."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx.inliner
import torch
from golden import Array
from reference_rollout import Stream
from torch import Tensor
from wan_graphs import GraphStream, Program, export_programs, slot_of

from vdmrt.bundle import CachePolicy, Role, TensorSpec
from vdmrt.export.families.wan.config import WanConfig
from vdmrt.export.families.wan.geometry import make_geometry
from vdmrt.export.families.wan.graphs import DenoiseGraph
from vdmrt.export.families.wan.plain_norm import with_plain_norms
from vdmrt.export.families.wan.rotary import frame_table
from vdmrt.export.families.wan.transformer import CausalWan

# A chunk sees one latent frame of the ring, which has room for two, beside one turned sink.
CONFIG = WanConfig(
    latent=(4, 6), dim=32, heads=2, ffn_dim=48, layers=2, text_len=5, text_dim=12, in_channels=3,
    frames_per_chunk=2, window_frames=4, sink_frames=1, positions="window",
)  # fmt: skip
REQUESTS, STEPS, CHUNKS = 2, 2, 6
LATENT = (REQUESTS, 2, 3, 4, 6)


@cache
def make_model() -> CausalWan:
    torch.manual_seed(5)
    model = CausalWan(CONFIG).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))  # norms of 1 and biases of 0 would hide mistakes
    return model


@cache
def programs() -> dict[str, Program]:
    return export_programs(make_model(), requests=REQUESTS, max_steps=STEPS, slots=9, per_frame=True)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sampler(timesteps: Tensor, row: list[float], step: tuple[int, ...] = (0, 0)) -> dict[str, Array]:
    """Return a table whose first row is ``row`` for all latent frames, followed by the identity."""
    coefficients = np.zeros((REQUESTS, STEPS + 1, 2, 8), np.float32)
    coefficients[:, 0], coefficients[:, 1:] = row, [1, 0, 1, 0, 0, 0, 0, 0]
    return {
        "step": np.array(step),
        "timesteps": timesteps.numpy()[:, None].repeat(STEPS + 1, axis=1),
        "coefficients": coefficients,
        "noise": normals(REQUESTS, STEPS + 1, *LATENT[1:], seed=4).numpy(),
        "history": normals(*LATENT, seed=6).numpy(),
    }


def streams() -> tuple[Stream, GraphStream]:
    model, context = make_model(), normals(REQUESTS, 5, 12, seed=9)
    rows = [programs()["prompt"].pairs({"text": context[row : row + 1].numpy()}) for row in range(REQUESTS)]
    text = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(*rows, strict=True)]
    return Stream(model, model.prompt(context), CONFIG), GraphStream(model, text, programs())


def filled(chunks: int) -> GraphStream:
    stream = streams()[1]
    for chunk in range(chunks):
        stream.evict(2)
        stream.commit(normals(*LATENT, seed=chunk), 2 * chunk)
    stream.evict(2)
    return stream


TIMESTEPS = torch.tensor([[0.0, 937.5], [625.0, 2500 / 3]])
# The clean latent of this row is the flow.
FLOW = [0.0, 1, 0, 0, 0, 0, 0, 0]


def test_a_ring_larger_than_the_window_equals_the_torch_module() -> None:
    torch_stream, graph_stream = streams()
    for chunk in range(CHUNKS):
        start, x_t, clean = 2 * chunk, normals(*LATENT, seed=50 + chunk), normals(*LATENT, seed=chunk)
        torch_stream.evict(2)
        graph_stream.evict(2)
        flow = torch_stream.denoise(x_t, TIMESTEPS, start)
        found = graph_stream.run(x_t, start, sampler(TIMESTEPS, FLOW))["next_history"]
        torch.testing.assert_close(found, flow, rtol=0, atol=2e-5)
        pairs = zip(graph_stream.commit(clean, start), torch_stream.commit(clean, start), strict=True)
        for own, wanted in pairs:
            torch.testing.assert_close(own, wanted, rtol=0, atol=2e-5)


def test_each_small_input_counts() -> None:
    feed = filled(4).feed(normals(*LATENT, seed=50), 8) | sampler(TIMESTEPS, FLOW)
    wrong = {
        "sink_turn": np.stack([frame_table(0, CONFIG.head_size)] * REQUESTS),
        "slot_valid": np.ones_like(feed["slot_valid"]),
        "positions": feed["positions"][:, ::-1],
    }

    flow = programs()["denoise"].run(feed)["next_history"]
    for name, value in wrong.items():
        found = programs()["denoise"].run(feed | {name: value})["next_history"]
        assert (found - flow).abs().max() > 1e-3, name


def test_a_finished_request_rests_while_another_goes_on() -> None:
    stream, x_t = filled(2), normals(*LATENT, seed=50)
    table = sampler(TIMESTEPS, [1, -0.5, 0.25, 0.75, 0.5, 2, 0.1, 0], step=(0, 7))

    found, flow = stream.run(x_t, 4, table), stream.run(x_t, 4, sampler(TIMESTEPS, FLOW))["next_history"]

    clean, history, noise = x_t - 0.5 * flow, torch.from_numpy(table["history"]), torch.from_numpy(table["noise"])
    wanted = 0.25 * x_t + 0.75 * clean + 0.5 * history + 2 * np.exp(0.05) * noise[:, 0]
    torch.testing.assert_close(found["next_history"][0], clean[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found["next_latent"][0], wanted[0], rtol=0, atol=1e-5)
    assert torch.equal(found["next_latent"][1], x_t[1])
    assert found["next_step"].tolist() == [1, STEPS]


def test_the_tables_list_the_documented_tensors() -> None:
    inputs = {stage: {spec.name: spec for spec in one.graph.inputs} for stage, one in programs().items()}

    small = {"latent", "positions", "slot_valid", "sink_turn"}
    own = {"step", "timesteps", "coefficients", "noise", "history"}
    assert {name for name in inputs["fill"] if "." not in name} == small
    assert {name for name in inputs["denoise"] if "." not in name} == small | own
    assert list(inputs["prompt"].values()) == [TensorSpec("text", "float32", (1, 5, 12), Role.TEXT)]
    assert inputs["denoise"]["positions"].shape == (2, 2, 2, 4) and inputs["fill"]["sink_turn"].shape == (1, 2, 4)
    assert inputs["denoise"]["past_k.1"].shape == (2, 2, 3 * 6, 16)
    assert inputs["denoise"]["text_v.1"] == TensorSpec("text_v.1", "float32", (2, 2, 5, 16), Role.TEXT_VALUE, 1)
    assert "past_k.1" not in inputs["fill"] and "text_k.1" not in inputs["fill"]
    assert [spec.name for spec in programs()["fill"].graph.outputs][-2:] == ["present_k.1", "present_v.1"]
    assert programs()["fill"].graph.outputs[0].shape == (1, 2, 2 * 6, 16)


def test_one_timestep_a_chunk_is_the_usual_table() -> None:
    graph = DenoiseGraph(make_model(), make_geometry(CONFIG, requests=3, max_steps=4))
    shapes = {spec.name: spec.shape for spec in graph.inputs}

    assert (shapes["timesteps"], shapes["coefficients"]) == ((3, 5), (3, 5, 8))


def test_every_attention_is_a_named_function() -> None:
    calls = {stage: program.graph.calls for stage, program in programs().items()}

    assert calls["prompt"] == {}
    assert calls["fill"] == {"CachedAttention": 1, "ContextAttention": 1, "ModulatedNorm": 3}
    assert calls["denoise"] == {"CachedAttention": 2, "ContextAttention": 2, "ModulatedNorm": 5}


def test_no_tensor_is_float64() -> None:
    for program in programs().values():
        graph = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(program.model)).graph
        types = {value.type.tensor_type.elem_type for value in graph.value_info}

        assert types and onnx.TensorProto.DOUBLE not in types


def test_weights_keep_their_names() -> None:
    names = {one.name for program in programs().values() for one in program.model.graph.initializer}

    missing = {name for name, _ in make_model().named_parameters()} - names
    assert missing == {"patch_embedding.weight"}  # a convolution's weight, reshaped to a matrix


def test_the_traced_copy_shares_all_parameters() -> None:
    model = make_model()
    shared = dict(with_plain_norms(model).named_parameters())

    assert {name: id(one) for name, one in shared.items()} == {name: id(one) for name, one in model.named_parameters()}


def test_slots_never_move() -> None:
    assert [slot_of(frame, CachePolicy(2, 3)) for frame in range(9)] == [0, 1, 2, 3, 4, 2, 3, 4, 2]
