"""Weights of a tiny Wan transformer, in the original code's names and in those of diffusers, and a LoRA for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

__all__ = ["LAYERS", "Weights", "make_lora", "make_weights", "prefixed", "save", "to_diffusers"]

Weights = dict[str, Tensor]

LAYERS = 2
_DIM, _FFN, _CHANNELS, _TEXT, _FREQUENCIES = 12, 20, 3, 5, 6
_OUTSIDE = {
    "text_embedding.0": (_DIM, _TEXT),
    "text_embedding.2": (_DIM, _DIM),
    "time_embedding.0": (_DIM, _FREQUENCIES),
    "time_embedding.2": (_DIM, _DIM),
    "time_projection.1": (6 * _DIM, _DIM),
    "head.head": (4 * _CHANNELS, _DIM),
}
_BLOCK = {
    **{f"{kind}_attn.{name}": (_DIM, _DIM) for kind in ("self", "cross") for name in "qkvo"},
    "ffn.0": (_FFN, _DIM),
    "ffn.2": (_DIM, _FFN),
}
# In this order; the swap of norms needs a third name.
_REPLACED = (
    ("head.modulation", "scale_shift_table"),
    ("head.head", "proj_out"),
    ("modulation", "scale_shift_table"),
    ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
    ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
    ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
    ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
    ("time_projection.1", "condition_embedder.time_proj"),
    ("ffn.0", "ffn.net.0.proj"),
    ("ffn.2", "ffn.net.2"),
    ("norm2", "norm_of_ffn"),
    ("norm3", "norm2"),
    ("norm_of_ffn", "norm3"),
    ("self_attn", "attn1"),
    ("cross_attn", "attn2"),
    *((f".{name}.", f".to_{name}.") for name in "qkv"),
    (".o.", ".to_out.0."),
)


def make_weights(seed: int = 0) -> Weights:
    """Return random weights by the original code's names."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (_DIM, _CHANNELS, 1, 2, 2),
        "patch_embedding.bias": (_DIM,),
        "head.modulation": (1, 2, _DIM),
    }
    linears = dict(_OUTSIDE)
    for block in (f"blocks.{layer}" for layer in range(LAYERS)):
        shapes[f"{block}.modulation"] = (1, 6, _DIM)
        shapes |= {f"{block}.norm3.{name}": (_DIM,) for name in ("weight", "bias")}
        norms = (f"{kind}_attn.norm_{name}" for kind in ("self", "cross") for name in "qk")
        shapes |= {f"{block}.{norm}.weight": (_DIM,) for norm in norms}
        linears |= {f"{block}.{name}": shape for name, shape in _BLOCK.items()}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}


def make_lora(weights: Weights, layers: Iterable[str], rank: int = 4, suffix: str = ".weight") -> Weights:
    """Return A and B of layers, as the original code's names with what PEFT appends."""
    random = torch.Generator().manual_seed(7)
    lora = Weights()
    for layer in layers:
        rows, columns = weights[f"{layer}.weight"].shape
        lora[f"{layer}.lora_A{suffix}"] = torch.randn(rank, columns, generator=random)
        lora[f"{layer}.lora_B{suffix}"] = torch.randn(rows, rank, generator=random)
    return lora


def to_diffusers(weights: Weights) -> Weights:
    """Return weights by the names of diffusers."""
    return {_diffusers_name(name): tensor for name, tensor in weights.items()}


def prefixed(prefix: str, weights: Weights) -> Weights:
    """Return weights with a prefix before each name."""
    return {prefix + name: tensor for name, tensor in weights.items()}


def save(path: Path, document: Any, **header: str) -> Path:
    """Save weights, or for other suffixes than .safetensors any document."""
    if path.suffix == ".safetensors":
        save_file(document, path, header or None)
    else:
        torch.save(document, path)
    return path


def _diffusers_name(name: str) -> str:
    for ours, theirs in _REPLACED:
        name = name.replace(ours, theirs)
    return name
