"""LoRAs of causal Wan are merged with their scale, and nothing of them is left out."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from wan_weights import LAYERS, Weights, make_lora, make_weights, prefixed, save, to_diffusers

from vdmrt.errors import CheckpointError, ExportError
from vdmrt.export.families.wan.lora import Lora, LoraLayer, merge_lora, read_lora

RANK = 4
LINEARS = (*(f"{kind}_attn.{name}" for kind in ("self", "cross") for name in "qkvo"), "ffn.0", "ffn.2")
NAMES = [f"blocks.{layer}.{name}" for layer in range(LAYERS) for name in LINEARS]
ONE = "blocks.1.ffn.0"


@pytest.fixture
def weights() -> Weights:
    return make_weights()


@pytest.fixture
def lora(weights: Weights) -> Weights:
    return make_lora(weights, NAMES, RANK)


def updated(weights: Weights, lora: Weights, scale: float) -> Weights:
    """Return W + scale * B @ A for all layers of a LoRA."""
    changes = {
        f"{name}.weight": scale * (lora[f"{name}.lora_B.weight"] @ lora[f"{name}.lora_A.weight"])
        for name in NAMES
        if f"{name}.lora_A.weight" in lora
    }
    return {name: tensor + changes[name] if name in changes else tensor for name, tensor in weights.items()}


def assert_same(found: Weights, wanted: Weights) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)


def of_adapter(lora: Weights, adapter: str) -> Weights:
    return {name.replace(".weight", f".{adapter}.weight"): tensor for name, tensor in lora.items()}


FORMS: dict[str, Callable[[Weights], Any]] = {
    "bare": lambda lora: lora,
    "PEFT": lambda lora: prefixed("base_model.model.", lora),
    "generator_lora": lambda lora: {"generator_lora": prefixed("base_model.model.", lora), "step": 3},
    "beside another": lambda lora: {"critic_lora": {}, "generator_lora": lora},
    "model.": lambda lora: prefixed("base_model.model.model.", lora),
    "FSDP": lambda lora: prefixed("base_model.model._fsdp_wrapped_module.", lora),
    "adapter": lambda lora: of_adapter(prefixed("base_model.model.", lora), "default"),
    "diffusers": lambda lora: prefixed("transformer.", to_diffusers(lora)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_merged_at_scale_1(tmp_path: Path, weights: Weights, lora: Weights, form: str) -> None:
    found = read_lora(save(tmp_path / "lora.pt", FORMS[form](lora)))

    assert len(found.layers) == len(NAMES)
    assert_same(merge_lora(weights, found), updated(weights, lora, 1.0))


def test_half_precision_is_merged_in_float32(tmp_path: Path, weights: Weights, lora: Weights) -> None:
    half = {name: tensor.bfloat16() for name, tensor in weights.items()}
    found = merge_lora(half, read_lora(save(tmp_path / "lora.pt", lora)))

    rounded = {name: tensor.float() for name, tensor in half.items()}
    assert found[f"{ONE}.weight"].dtype == torch.float32
    assert_same({name: tensor.float() for name, tensor in found.items()}, updated(rounded, lora, 1.0))
    assert torch.equal(half[f"{ONE}.weight"], weights[f"{ONE}.weight"].bfloat16())


@pytest.mark.parametrize("alpha", [8.0, torch.tensor(8.0), torch.tensor([8])])
def test_a_layers_alpha_counts(tmp_path: Path, weights: Weights, lora: Weights, alpha: Any) -> None:
    path = save(tmp_path / "lora.pt", {**lora, **{f"{name}.alpha": alpha for name in NAMES}})

    assert_same(merge_lora(weights, read_lora(path), scale=0.5), updated(weights, lora, 0.5 * 8 / RANK))


CONFIGS: dict[str, tuple[dict[str, Any], float]] = {
    "alpha": ({"lora_alpha": 2}, 0.5),
    "square root": ({"lora_alpha": 2, "use_rslora": True}, 1.0),
    "pattern": ({"lora_alpha": 2, "alpha_pattern": {r"ffn\.\d": 16, "nothing": 3}}, 4.0),
    "end of a name": ({"lora_alpha": 2, "alpha_pattern": {"fn.0": 16}}, 0.5),
    "no alpha": ({"r": RANK}, 1.0),
}


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("case", CONFIGS)
def test_the_adapters_configuration_has_alpha(tmp_path: Path, weights: Weights, case: str, folder: bool) -> None:
    config, scale = CONFIGS[case]
    lora = make_lora(weights, [ONE], RANK)
    path = save(tmp_path / "adapter_model.safetensors", prefixed("base_model.model.", lora))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))

    assert_same(merge_lora(weights, read_lora(tmp_path if folder else path)), updated(weights, lora, scale))


def test_the_header_of_diffusers_has_alpha(tmp_path: Path, weights: Weights, lora: Weights) -> None:
    header = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 2, "transformer.r": RANK})}
    path = save(tmp_path / "lora.safetensors", prefixed("transformer.", to_diffusers(lora)), **header)

    assert_same(merge_lora(weights, read_lora(path)), updated(weights, lora, 0.5))


def test_a_configuration_beside_another_file_is_not_its_own(tmp_path: Path, weights: Weights, lora: Weights) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 64}))

    assert_same(merge_lora(weights, read_lora(save(tmp_path / "lora.pt", lora))), updated(weights, lora, 1.0))


def test_what_was_merged_is_logged(
    tmp_path: Path, weights: Weights, lora: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path / "lora.pt", lora)
    with caplog.at_level(logging.INFO, "vdmrt"):
        merge_lora(weights, read_lora(path), scale=0.25)

    assert caplog.messages == [
        f"{path}: has no alpha; using the rank, that is a factor of 1",
        f"{path}: merged into 20 layers, multiplied by 0.25",
    ]


ENTRIES: dict[str, tuple[dict[str, Any], str]] = {
    "bias": ({f"{ONE}.bias": torch.zeros(3)}, rf"lora.pt: '{ONE}.bias' cannot be merged; wanted nothing but lora_A"),
    "DoRA": ({f"{ONE}.lora_magnitude_vector": torch.zeros(3)}, "lora_magnitude_vector' cannot be merged"),
    "embedding": ({f"{ONE}.lora_embedding_A": torch.zeros(3)}, "lora_embedding_A' cannot be merged"),
    "text": ({f"{ONE}.alpha": "8"}, "alpha' cannot be merged"),
    "not a number": ({f"{ONE}.alpha": float("nan")}, f"{ONE}.alpha is nan, wanted a finite number"),
    "alphas": ({f"{ONE}.alpha": torch.zeros(2)}, r"alpha is tensor\(.*, wanted a finite number"),
    "alpha alone": ({"head.head.alpha": 8.0}, "'head.head' lacks lora_A; save the LoRA whole"),
    "half a layer": ({"head.head.lora_A.weight": torch.zeros(4, 12)}, "'head.head' lacks lora_B; save"),
    "convolution": (
        {f"{ONE}.lora_A.weight": torch.zeros(4, 3, 1, 2, 2)},
        r"lora_A.weight' has the shape \[4, 3, 1, 2, 2\], wanted two axes",
    ),
    "ranks": (
        {f"{ONE}.lora_A.weight": torch.zeros(3, 12)},
        r"lora_A \[3, 12\] and lora_B \[20, 4\], which have no rank",
    ),
    "adapters": (
        {"head.head.lora_A.b.weight": torch.zeros(4, 12)},
        "has several adapters, b, one without a name; save one",
    ),
    "twice": ({f"{ONE}.lora_A.b.weight": torch.zeros(4, 12)}, rf"'{ONE}.lora_A.b.weight' is there twice; save one"),
    "FSDP twice": ({f"_fsdp_wrapped_module.{ONE}.lora_A.weight": torch.zeros(4, 12)}, "contains weights twice, with"),
    "set": ({"critic_lora": {}}, "wanted tensors, alone or as 'generator_lora'; found sets named critic_lora"),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_an_entry_that_cannot_be_merged_is_refused(tmp_path: Path, lora: Weights, case: str) -> None:
    extra, sentence = ENTRIES[case]
    with pytest.raises(CheckpointError, match=sentence):
        read_lora(save(tmp_path / "lora.pt", {**lora, **extra}))


def test_a_file_without_a_lora_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="wanted a LoRA with names such as .*, found none"):
        read_lora(save(tmp_path / "lora.pt", {"generator_lora": {}}))


def test_a_checkpoint_is_no_lora(tmp_path: Path, weights: Weights) -> None:
    with pytest.raises(CheckpointError, match="it.safetensors: 'blocks.0.[a-z_.]*' cannot be merged"):
        read_lora(save(tmp_path / "it.safetensors", weights))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "adapter_config.json: the LoRA's configuration is not JSON"),
        ("[]", "wanted the LoRA's configuration, found list"),
        ('{"use_dora": true}', "its configuration has use_dora = True, which cannot be merged"),
        ('{"lora_alpha": "8"}', "alpha of 'blocks.0.cross_attn.k' is '8', wanted a finite number"),
        ('{"alpha_pattern": {"(": 8}}', r"alpha_pattern is {'\(': 8}, wanted patterns of names with numbers"),
        ('{"alpha_pattern": [8]}', r"alpha_pattern is \[8\], wanted patterns"),
    ],
)
def test_a_bad_configuration_is_refused(tmp_path: Path, lora: Weights, text: str, sentence: str) -> None:
    save(tmp_path / "adapter_model.safetensors", lora)
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=sentence):
        read_lora(tmp_path)


TARGETS: dict[str, tuple[Weights, str]] = {
    "layer": (
        {"blocks.9.ffn.0.lora_A.weight": torch.zeros(4, 12), "blocks.9.ffn.0.lora_B.weight": torch.zeros(20, 4)},
        r"1 of 21 layers are not in the checkpoint \(blocks.9.ffn.0.weight\); give the LoRA of this model",
    ),
    "columns": (
        {f"{ONE}.lora_A.weight": torch.zeros(4, 13)},
        rf"lora.pt: B @ A for '{ONE}.weight' is \[20, 13\], the weight \[20, 12\]",
    ),
    "norm": (
        {"blocks.0.norm3.lora_A.weight": torch.zeros(4, 12), "blocks.0.norm3.lora_B.weight": torch.zeros(12, 4)},
        r"B @ A for 'blocks.0.norm3.weight' is \[12, 12\], the weight \[12\]",
    ),
    "NaN": (
        {f"{ONE}.lora_B.weight": torch.full((20, 4), torch.nan)},
        f"lora.pt: 'LoRA of {ONE}.weight' contains NaN or Inf",
    ),
}


@pytest.mark.parametrize("case", TARGETS)
def test_a_lora_of_another_model_is_refused(tmp_path: Path, weights: Weights, lora: Weights, case: str) -> None:
    extra, sentence = TARGETS[case]
    found = read_lora(save(tmp_path / "lora.pt", lora | extra))
    with pytest.raises(CheckpointError, match=sentence):
        merge_lora(weights, found)


def test_a_merge_beyond_the_memory_is_refused_before_anything_is_read() -> None:
    rows = 2**24
    with torch.device("meta"):
        weight, down, up = torch.empty(rows, rows), torch.empty(4, rows), torch.empty(rows, 4)
    large = Lora(Path("lora.pt"), (LoraLayer("it.weight", down, up, 1.0),))
    with pytest.raises(ExportError, match="merging the LoRA needs 1024 TiB of memory, and the host has"):
        merge_lora({"it.weight": weight}, large)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_not_finite_is_refused(tmp_path: Path, weights: Weights, lora: Weights, scale: float) -> None:
    with pytest.raises(ValueError, match=f"the LoRA's scale must be finite, got {scale}"):
        merge_lora(weights, read_lora(save(tmp_path / "lora.pt", lora)), scale=scale)
