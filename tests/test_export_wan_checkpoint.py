"""Checkpoints of causal Wan are read in every wrapping and naming, and those of other models are refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from wan_weights import Weights, make_lora, make_weights, prefixed, save, to_diffusers

from vdmrt.errors import CheckpointError, ExportError
from vdmrt.export import load_model, read_checkpoint, register_family
from vdmrt.export.families.wan.checkpoint import (
    WanSizes,
    check_sizes,
    find_sizes,
    read_wan_checkpoint,
    weight_shapes,
)
from vdmrt.export.families.wan.checkpoint_names import select_weights

KEY = "blocks.1.ffn.0.weight"
SIZES = WanSizes(dim=12, ffn_dim=20, layers=2, in_channels=3, text_dim=5, freq_dim=6)


@pytest.fixture
def weights() -> Weights:
    return make_weights()


def zeros(weights: Weights) -> Weights:
    return {name: torch.zeros_like(tensor) for name, tensor in weights.items()}


def in_fsdp(weights: Weights) -> Weights:
    """Return the names of a model that FSDP wraps as a whole and block by block."""
    inside = {re.sub(r"^(blocks\.\d+\.)", r"\1_fsdp_wrapped_module.", name): value for name, value in weights.items()}
    return prefixed("model._fsdp_wrapped_module.", inside)


def assert_same(found: Any, wanted: Weights) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


WRAPPINGS: dict[str, Callable[[Weights], Any]] = {
    "bare": lambda weights: weights,
    "generator_ema": lambda weights: {"generator_ema": weights},
    "generator": lambda weights: {"generator": weights},
    "model": lambda weights: {"model": weights},
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 3},
    "generator_ema before generator": lambda weights: {"generator": zeros(weights), "generator_ema": weights},
    "generator before model": lambda weights: {"model": zeros(weights), "generator": weights},
    "model before state_dict": lambda weights: {"state_dict": zeros(weights), "model": weights},
    "two deep": lambda weights: {"generator": {"state_dict": weights}},
    "model.": lambda weights: prefixed("model.", weights),
    "generator and model.": lambda weights: {"generator": prefixed("model.", weights), "critic": {}},
    "FSDP": lambda weights: {"generator_ema": in_fsdp(weights)},
    "FSDP without model.": lambda weights: prefixed("_fsdp_wrapped_module.", weights),
}


@pytest.mark.parametrize("naming", ["original", "diffusers"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_is_read(tmp_path: Path, weights: Weights, wrapping: str, naming: str) -> None:
    named = weights if naming == "original" else to_diffusers(weights)
    path = save(tmp_path / "it.pt", WRAPPINGS[wrapping](named))

    assert_same(read_wan_checkpoint(path, sizes=SIZES).tensors, weights)


@pytest.mark.parametrize("wrapping", ["generator_ema before generator", "generator before model", "FSDP"])
def test_the_general_reader_prefers_the_generator_too(tmp_path: Path, weights: Weights, wrapping: str) -> None:
    path = save(tmp_path / "it.pt", WRAPPINGS[wrapping](weights))

    assert_same(read_checkpoint(path).tensors, weights)


def test_diffusers_names_are_all_different_and_converted(weights: Weights) -> None:
    theirs = to_diffusers(weights)

    assert theirs.keys() & weights.keys() == {"patch_embedding.weight", "patch_embedding.bias"}
    assert "blocks.0.norm2.weight" in theirs and "blocks.0.norm3.weight" not in theirs
    assert_same(select_weights(theirs), weights)


def test_the_shards_of_diffusers_are_read(tmp_path: Path, weights: Weights) -> None:
    names = sorted(theirs := to_diffusers(weights))
    for shard in (0, 1):
        save(tmp_path / f"{shard}.safetensors", {name: theirs[name] for name in names[shard::2]})
    index = {"weight_map": {name: f"{place % 2}.safetensors" for place, name in enumerate(names)}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))

    assert_same(read_wan_checkpoint(tmp_path).tensors, weights)


def test_original_names_stay(weights: Weights) -> None:
    assert_same(select_weights(weights), weights)


def test_the_weights_taken_are_logged_in_one_line(
    tmp_path: Path, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(tmp_path / "it.pt", {"generator": zeros(weights), "generator_ema": weights})
    with caplog.at_level(logging.INFO, "vdmrt"):
        found = read_wan_checkpoint(path)

    assert caplog.messages == [f"{path}: using the weights 'generator_ema' of generator, generator_ema"]
    assert (found.weights, found.sets) == ("generator_ema", ("generator", "generator_ema"))


def test_other_weights_can_be_chosen(tmp_path: Path, weights: Weights) -> None:
    path = save(tmp_path / "it.pt", {"generator": weights, "generator_ema": zeros(weights)})

    assert_same(read_wan_checkpoint(path, weights="generator").tensors, weights)


def test_missing_weights_are_refused_with_the_existing_ones(tmp_path: Path, weights: Weights) -> None:
    path = save(tmp_path / "it.pt", {"generator": weights})
    with pytest.raises(CheckpointError, match="has no weights named 'generator_ema'; it has generator$"):
        read_wan_checkpoint(path, weights="generator_ema")


def test_sizes_are_derived_from_shapes(weights: Weights) -> None:
    assert find_sizes(weights) == SIZES
    assert weight_shapes(SIZES) == {name: tuple(tensor.shape) for name, tensor in weights.items()}


def test_heads_follow_from_their_size() -> None:
    assert WanSizes(1536, 8960, 30).heads() == 12
    assert SIZES.heads(4) == 3
    with pytest.raises(ExportError, match="dim 12 is no multiple of the head size 128"):
        SIZES.heads()


def test_sizes_of_a_configuration_are_its_attributes() -> None:
    config = SimpleNamespace(**dataclasses.asdict(SIZES), heads=3)

    assert WanSizes.of(config) == SIZES


def test_other_sizes_are_refused_with_both() -> None:
    small, large = WanSizes(1536, 8960, 30), WanSizes(5120, 13824, 40)
    sentence = (
        "^the checkpoint has dim 5120, ffn_dim 13824, layers 40, the configuration dim 1536, ffn_dim 8960, layers 30; "
        "give the --config it was trained with$"
    )
    with pytest.raises(CheckpointError, match=sentence):
        check_sizes(large, small)


def test_sizes_are_compared_while_reading(tmp_path: Path, weights: Weights) -> None:
    path = save(tmp_path / "it.safetensors", weights)
    with pytest.raises(
        CheckpointError, match="it.safetensors: the checkpoint has layers 2, the configuration layers 3;"
    ):
        read_wan_checkpoint(path, sizes=dataclasses.replace(SIZES, layers=3))


OTHERS: dict[str, tuple[Weights, str]] = {
    "image cross-attention": (
        {"blocks.0.cross_attn.k_img.weight": torch.zeros(12, 12)},
        r"it.pt: 'blocks.0.cross_attn.k_img.weight' belongs to an image-to-video Wan with image cross-attention; "
        "supported are causal text-to-video models of Wan 2.1$",
    ),
    "image embedding": ({"img_emb.proj.0.weight": torch.zeros(3)}, "'img_emb.proj.0.weight' belongs to an image-to"),
    "image embedding of diffusers": (
        {"condition_embedder.image_embedder.norm1.weight": torch.zeros(3)},
        "image_embedder.norm1.weight' belongs to an image-to-video Wan",
    ),
    "added projection of diffusers": ({"blocks.0.attn2.add_k_proj.weight": torch.zeros(3)}, "an image-to-video Wan"),
    "VACE": (
        {"vace_blocks.0.after_proj.weight": torch.zeros(3)},
        "'vace_blocks.0.after_proj.weight' belongs to a VACE",
    ),
    "5B": ({"patch_embedding.weight": torch.zeros(12, 48, 1, 2, 2)}, "have 48 input channels: they belong to the 5B"),
    "I2V of Wan 2.2": (
        {"patch_embedding.weight": torch.zeros(12, 36, 1, 2, 2)},
        "36 input channels: .* image-to-video",
    ),
    "LoRA": ({"blocks.0.ffn.0.lora_A.weight": torch.zeros(2, 12)}, "lora_A.weight' belongs to a LoRA; give the check"),
    "unmerged": ({"blocks.0.ffn.0.base_layer.weight": torch.zeros(3)}, "a LoRA that is not merged; save it merged"),
    "unknown layer": (
        {"blocks.0.audio.weight": torch.zeros(3)},
        r"is not a checkpoint of this model: 1 unexpected \(blocks.0.audio.weight\)",
    ),
    "shape": ({KEY: torch.zeros(20, 13)}, rf"1 misshapen \({KEY} wanted \[20, 12\], found \[20, 13\]\)"),
    "axes": ({"text_embedding.0.weight": torch.zeros(12)}, r"'text_embedding.0.weight' has the shape \[12\], wanted 2"),
    "both norms": ({"blocks.0.attn1.to_q.weight": torch.zeros(3)}, "'blocks.0.self_attn.q.weight' is there twice"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_model_is_refused(tmp_path: Path, weights: Weights, case: str) -> None:
    extra, sentence = OTHERS[case]
    with pytest.raises(CheckpointError, match=sentence):
        read_wan_checkpoint(save(tmp_path / "it.pt", {"generator": weights | extra}))


def test_missing_weights_are_counted_and_named(tmp_path: Path, weights: Weights) -> None:
    del weights[KEY], weights["head.head.bias"]
    with pytest.raises(CheckpointError, match=rf"model: 2 missing \(head.head.bias, {KEY}\); give") as caught:
        read_wan_checkpoint(save(tmp_path / "it.safetensors", weights))

    assert caught.value.missing == ("head.head.bias", KEY)


def test_a_missing_block_is_missing_and_not_fewer_layers(tmp_path: Path, weights: Weights) -> None:
    kept = {name.replace("blocks.1.", "blocks.5."): tensor for name, tensor in weights.items()}
    with pytest.raises(CheckpointError, match=r"27 missing \(blocks.1.modulation, .*; 27 unexpected \(blocks.5"):
        read_wan_checkpoint(save(tmp_path / "it.safetensors", kept))


def test_a_file_without_a_wan_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "it.pt", {"conv.weight": torch.zeros(3)})
    sentence = r"wanted a causal Wan, found no weight 'patch_embedding.weight' among 1 \(as conv.weight\)"
    with pytest.raises(CheckpointError, match=sentence):
        read_wan_checkpoint(path)


def test_names_with_and_without_the_wrapper_are_refused(tmp_path: Path, weights: Weights) -> None:
    twice = weights | {f"_fsdp_wrapped_module.{KEY}": weights[KEY]}
    with pytest.raises(CheckpointError, match=f"it.pt: contains '{KEY}' twice, with and without '_fsdp_wrapped_module"):
        read_wan_checkpoint(save(tmp_path / "it.pt", twice))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, weights: Weights) -> None:
    path = save(tmp_path / "it.pt", {"generator": weights, "config": logging.Formatter()})
    with pytest.raises(CheckpointError, match="it.pt: is damaged, or contains more than tensors and would run code"):
        read_wan_checkpoint(path)


@pytest.mark.parametrize("name", ["it.safetensors", "it.pt"])
def test_a_truncated_file_is_refused(tmp_path: Path, weights: Weights, name: str) -> None:
    path = save(tmp_path / name, weights)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=f"{name}: is (truncated or not a checkpoint: .|damaged, or contains)"):
        read_wan_checkpoint(path)


class Parameters:
    """A family whose module has a Wan's parameters and does not compute."""

    name = "wan-parameters"
    presets: dict[str, Any] = {}
    select_weights = staticmethod(select_weights)

    def build(self, config: Any) -> torch.nn.Module:
        """Return a module with the parameters' names."""
        root = torch.nn.Module()
        for name, shape in weight_shapes(SIZES).items():
            *path, last = name.split(".")
            module = root
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, torch.nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(last, torch.nn.Parameter(torch.zeros(shape)))
        return root


class Config:
    """The configuration of that module."""

    family: ClassVar[str] = Parameters.name

    def describe(self) -> str:
        """Return its size."""
        return "a tiny Wan"


FAMILY: Any = Parameters()
register_family(FAMILY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_read_is_loaded(tmp_path: Path, weights: Weights, dtype: torch.dtype) -> None:
    half: dict[str, Tensor] = {name: tensor.to(dtype) for name, tensor in weights.items()}
    path = save(tmp_path / "it.pt", {"generator": in_fsdp(to_diffusers(half))})
    wanted = {name: tensor.float() for name, tensor in half.items()}

    assert_same(load_model(Config(), path).state_dict(), wanted)
    assert_same(load_model(Config(), read_wan_checkpoint(path)).state_dict(), wanted)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(tmp_path: Path, weights: Weights, value: float) -> None:
    weights[KEY][3, 4] = value
    found = read_wan_checkpoint(save(tmp_path / "it.pt", to_diffusers(weights)))
    with pytest.raises(CheckpointError, match=f"it.pt: '{KEY}' contains NaN or Inf; its training has diverged"):
        load_model(Config(), found)


def test_a_lora_is_merged_into_what_was_read(tmp_path: Path, weights: Weights) -> None:
    lora = make_lora(weights, ["blocks.1.ffn.0"])
    path = save(tmp_path / "it.pt", {"generator": weights})
    found = read_wan_checkpoint(path, lora=save(tmp_path / "lora.pt", lora), lora_scale=0.5).tensors

    b, a = lora["blocks.1.ffn.0.lora_B.weight"], lora["blocks.1.ffn.0.lora_A.weight"]
    assert_same(found, weights | {KEY: weights[KEY] + 0.5 * (b @ a)})
