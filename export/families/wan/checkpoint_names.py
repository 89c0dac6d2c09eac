"""Names of a Wan checkpoint's weights: those of diffusers are converted, those of other Wan models are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from ....errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["is_diffusers", "original_name", "original_names", "select_weights"]

_T = TypeVar("_T")
_BLOCK = re.compile(r"(blocks\.\d+\.)(.+)")
_PROJECTIONS = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o", "norm_q": "norm_q", "norm_k": "norm_k"}
# Modules and parameters in diffusers, and what the original code calls them. Inside a block:
_IN_BLOCK = {
    **{f"attn1.{theirs}": f"self_attn.{ours}" for theirs, ours in _PROJECTIONS.items()},
    **{f"attn2.{theirs}": f"cross_attn.{ours}" for theirs, ours in _PROJECTIONS.items()},
    # diffusers numbers the norms in the order of their use, the original code does not.
    "norm2": "norm3",
    "norm3": "norm2",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "scale_shift_table": "modulation",
}
_OUTSIDE = {
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
}
# Parts of names that only diffusers has.
_DIFFUSERS = ("condition_embedder.", ".attn1.", ".attn2.", ".ffn.net.", "scale_shift_table", "proj_out.")
_SUPPORTED = "supported are causal text-to-video models of Wan 2.1"
_WITH_PICTURE = f"an image-to-video Wan with image cross-attention; {_SUPPORTED}"
# Parts of names that show what else a file is, in the original code's names and in those of diffusers.
_OTHERS = {
    ".base_layer.": "a model with a LoRA that is not merged; save it merged",
    "lora_": "a LoRA; give the checkpoint that it was trained on, and this file as its LoRA",
    "img_emb.": _WITH_PICTURE,
    ".k_img.": _WITH_PICTURE,
    ".image_embedder.": _WITH_PICTURE,
    ".add_k_proj.": _WITH_PICTURE,
    "vace_": f"a VACE Wan, which other clips control; {_SUPPORTED}",
}


def select_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checkpoint's weights under the original code's names.

    Args:
        tensors: Weights by the original code's names or by those of diffusers, without prefixes.

    Raises:
        CheckpointError: The weights are those of another Wan model or of a LoRA, or two of them have one name.
    """
    for part, what in _OTHERS.items():
        name = next((name for name in tensors if part in name), None)
        if name is not None:
            raise CheckpointError(f"'{name}' belongs to {what}")
    return original_names(tensors)


def original_names(values: Mapping[str, _T]) -> dict[str, _T]:
    """Return values by the original code's names; unknown names stay as they are.

    Raises:
        CheckpointError: Two values have one name.
    """
    if not is_diffusers(values):
        return dict(values)
    renamed = {original_name(name): value for name, value in values.items()}
    if len(renamed) < len(values):
        names = [original_name(name) for name in values]
        twice = next(name for name in names if names.count(name) > 1)
        raise CheckpointError(f"'{twice}' is there twice, under the original code's name and under that of diffusers")
    return renamed


def is_diffusers(names: Iterable[str]) -> bool:
    """Whether names are those of diffusers."""
    return any(part in name for name in names for part in _DIFFUSERS)


def original_name(name: str) -> str:
    """Return the original code's name of a parameter of diffusers."""
    inside = _BLOCK.fullmatch(name)
    block, rest = inside.groups() if inside else ("", name)
    for theirs, ours in (_IN_BLOCK if inside else _OUTSIDE).items():
        if rest == theirs or rest.startswith(f"{theirs}."):
            return f"{block}{ours}{rest.removeprefix(theirs)}"
    return name
