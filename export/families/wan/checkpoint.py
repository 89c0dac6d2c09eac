"""Reading of a causal Wan checkpoint: names, sizes and shapes are checked without the torch module."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ....errors import CheckpointError, ExportError
from ...checkpoint import Checkpoint, check_fit, read_checkpoint
from .checkpoint_names import select_weights
from .lora import merge_lora, read_lora

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HEAD_SIZE", "SETS", "WanSizes", "check_sizes", "find_sizes", "read_wan_checkpoint", "weight_shapes"]

# Names of sets of weights, preferred first: averaged weights are those that the authors run.
SETS = ("generator_ema", "generator", "model", "state_dict")
# All published models have it.
HEAD_SIZE = 128

_PATCH = (1, 2, 2)
# Where each size is read: a weight and its axis.
_SOURCES = {
    "dim": ("patch_embedding.weight", 0),
    "ffn_dim": ("blocks.0.ffn.0.weight", 0),
    "in_channels": ("patch_embedding.weight", 1),
    "text_dim": ("text_embedding.0.weight", 1),
    "freq_dim": ("time_embedding.0.weight", 1),
}
_BLOCK = re.compile(r"blocks\.(\d+)\.")
# Latent channels of other models, whose blocks have the same names.
_OTHER_CHANNELS = {
    48: "the 5B Wan 2.2, which has another video VAE",
    36: "an image-to-video Wan, which takes a mask and a picture beside the latent",
}
# Rows and columns of the weights of Linear layers, in sizes; (6, "dim") is six times dim.
_Axis = str | tuple[int, str]
_LINEARS: dict[str, tuple[_Axis, _Axis]] = {
    "text_embedding.0": ("dim", "text_dim"),
    "text_embedding.2": ("dim", "dim"),
    "time_embedding.0": ("dim", "freq_dim"),
    "time_embedding.2": ("dim", "dim"),
    "time_projection.1": ((6, "dim"), "dim"),
    "head.head": ((4, "in_channels"), "dim"),
}
_BLOCK_LINEARS: dict[str, tuple[_Axis, _Axis]] = {
    **{f"{kind}.{name}": ("dim", "dim") for kind in ("self_attn", "cross_attn") for name in "qkvo"},
    "ffn.0": ("ffn_dim", "dim"),
    "ffn.2": ("dim", "ffn_dim"),
}
_BLOCK_VECTORS = (
    *(f"{kind}.norm_{name}.weight" for kind in ("self_attn", "cross_attn") for name in "qk"),
    "norm3.weight",
    "norm3.bias",
)
_LISTED = 3

_log = logging.getLogger("vdmrt")


@dataclass(frozen=True)
class WanSizes:
    """Sizes of a Wan transformer that the shapes of its weights determine.

    Attributes:
        dim: Width of the residual stream.
        ffn_dim: Width inside the feed-forward layers.
        layers: Count of blocks.
        in_channels: Latent channels, of input and output.
        text_dim: Width of a prompt's embedding.
        freq_dim: Width of the timestep's sinusoids.
    """

    dim: int
    ffn_dim: int
    layers: int
    in_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256

    @classmethod
    def of(cls, config: Any) -> WanSizes:
        """Return the sizes of a configuration, which has attributes of the same names."""
        return cls(**{field.name: getattr(config, field.name) for field in fields(cls)})

    def heads(self, head_size: int = HEAD_SIZE) -> int:
        """Return the count of heads, which shapes do not determine.

        Raises:
            ExportError: Heads of that size do not fill the width.
        """
        if self.dim % head_size:
            raise ExportError(f"dim {self.dim} is no multiple of the head size {head_size}; give the count of heads")
        return self.dim // head_size


def read_wan_checkpoint(
    path: Path,
    *,
    weights: str | None = None,
    sizes: WanSizes | None = None,
    lora: Path | None = None,
    lora_scale: float = 1.0,
) -> Checkpoint:
    """Map the weights of a checkpoint under the original code's names, complete and of the right shapes.

    Values are read when they are used, except those that a LoRA changes: these are merged here, in float32.

    Args:
        path: A file, an index of shards or a folder, as for :func:`read_checkpoint`.
        weights: Name of the set to use; None uses the first of ``SETS`` that the checkpoint has.
        sizes: Sizes of the configuration, to compare with.
        lora: A LoRA in PEFT's names, to merge into the weights.
        lora_scale: Factor of the LoRA, besides its own alpha / rank.

    Raises:
        CheckpointError: The checkpoint cannot be read, is of another model or has other sizes; or the LoRA cannot be
            read, is for another model or contains what cannot be merged.
        ExportError: The weights that the LoRA changes need more memory than is available.
        ValueError: ``lora_scale`` is not finite.
    """
    found = read_checkpoint(path, weights=weights, preferred=SETS)
    tensors = _checked_weights(found, sizes)
    taken = "its only weights" if found.weights is None else f"the weights {found.weights!r}"
    _log.info("%s: using %s%s", path, taken, f" of {', '.join(found.sets)}" if len(found.sets) > 1 else "")
    if lora is not None:
        tensors = merge_lora(tensors, read_lora(lora), scale=lora_scale)
    return Checkpoint(path, tensors, found.weights, found.sets)


def find_sizes(tensors: Mapping[str, Tensor]) -> WanSizes:
    """Derive the sizes of a model from the shapes of its weights.

    Args:
        tensors: Weights by the original code's names.

    Raises:
        CheckpointError: A weight that shows a size is missing or has too few axes, or the sizes are those of another
            Wan model.
    """
    sizes = {size: _length(tensors, *source) for size, source in _SOURCES.items()}
    other = _OTHER_CHANNELS.get(sizes["in_channels"])
    if other is not None:
        raise CheckpointError(f"the weights have {sizes['in_channels']} input channels: they belong to {other}")
    return WanSizes(layers=len({block[1] for block in map(_BLOCK.match, tensors) if block}), **sizes)


def check_sizes(found: WanSizes, wanted: WanSizes) -> None:
    """Compare the sizes of a checkpoint with those of a configuration.

    Raises:
        CheckpointError: They differ.
    """
    have, want = asdict(found), asdict(wanted)
    differing = [name for name in have if have[name] != want[name]]
    if differing:
        have_text, want_text = (", ".join(f"{name} {sizes[name]}" for name in differing) for sizes in (have, want))
        raise CheckpointError(
            f"the checkpoint has {have_text}, the configuration {want_text}; give the --config it was trained with"
        )


def weight_shapes(sizes: WanSizes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights of a model, by the original code's names."""
    lengths, dim = asdict(sizes), sizes.dim
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (dim, sizes.in_channels, *_PATCH),
        "patch_embedding.bias": (dim,),
        "head.modulation": (1, 2, dim),
        **_linear_shapes("", _LINEARS, lengths),
    }
    for layer in range(sizes.layers):
        block = f"blocks.{layer}."
        shapes[f"{block}modulation"] = (1, 6, dim)
        shapes |= {block + name: (dim,) for name in _BLOCK_VECTORS}
        shapes |= _linear_shapes(block, _BLOCK_LINEARS, lengths)
    return shapes


def _checked_weights(found: Checkpoint, sizes: WanSizes | None) -> dict[str, Tensor]:
    try:
        tensors = select_weights(found.tensors)
        own = find_sizes(tensors)
        if sizes is not None:
            check_sizes(own, sizes)
    except CheckpointError as error:
        raise CheckpointError(f"{found.path}: {error}") from error
    wanted = {name: torch.empty(shape, device="meta") for name, shape in weight_shapes(own).items()}
    check_fit(wanted, tensors, found.path)
    return tensors


def _length(tensors: Mapping[str, Tensor], name: str, axis: int) -> int:
    if name not in tensors:
        some = ", ".join(list(tensors)[:_LISTED])
        raise CheckpointError(f"wanted a causal Wan, found no weight '{name}' among {len(tensors)} (as {some})")
    shape = list(tensors[name].shape)
    if len(shape) <= axis:
        raise CheckpointError(f"'{name}' has the shape {shape}, wanted {axis + 1} or more axes")
    return shape[axis]


def _linear_shapes(
    prefix: str, linears: Mapping[str, tuple[_Axis, _Axis]], lengths: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    shapes = dict[str, tuple[int, ...]]()
    for name, axes in linears.items():
        rows, columns = (lengths[axis] if isinstance(axis, str) else axis[0] * lengths[axis[1]] for axis in axes)
        shapes |= {f"{prefix}{name}.weight": (rows, columns), f"{prefix}{name}.bias": (rows,)}
    return shapes
