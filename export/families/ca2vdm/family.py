"""The Ca2-VDM family, for the exporter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ....bundle import (
    FP16,
    CacheLayout,
    CachePolicy,
    CacheProjections,
    Geometry,
    ParameterNames,
    PositionScheme,
    Stage,
)
from .arguments import PRESETS, config_from_arguments, with_latent_size

if TYPE_CHECKING:
    from torch import Tensor

    from ....bundle import (
        Precision,
    )
    from ...onnx_graph import Exportable
    from ...options import ExportOptions
    from .config import TransformerConfig
    from .transformer import CausalTransformer

__all__ = ["FAMILY"]

# Buffers are rebuilt from the configuration: a checkpoint may contain them for another latent size.
_REBUILT = frozenset(
    {
        "pos_embed",
        "pos_embed_temporal",
        "bov_token",
        "rope",
        "freqs_cis",
        "cache_kv",
        "cache_indicator",
        "spatial_ctx_kv",
    }
)


class Ca2Vdm:
    """Causal generation with cached keys and values, factorized in space and time (ICML 2025)."""

    name = "ca2vdm"
    presets: Mapping[str, Mapping[str, Any]] = PRESETS

    def read_config(
        self, arguments: Mapping[str, Any], latent_size: tuple[int, int] | None = None
    ) -> TransformerConfig:
        """Convert the reference's constructor arguments."""
        return config_from_arguments(arguments if latent_size is None else with_latent_size(arguments, latent_size))

    def make_geometry(self, config: TransformerConfig, options: ExportOptions) -> Geometry:
        """Return all sizes of the graphs; the cache has no sinks."""
        return Geometry(
            layers=config.depth,
            heads=config.heads,
            head_size=config.head_size,
            tokens_per_frame=config.tokens_per_frame,
            latent_channels=config.latent_channels,
            latent_height=config.latent_size[0],
            latent_width=config.latent_size[1],
            chunk_frames=options.chunk_frames,
            layout=CacheLayout.FACTORIZED,
            policy=CachePolicy(sinks=0, window=options.slots),
            requests=options.requests,
            rows_per_request=2 if config.text_width and options.guidance else 1,
            max_steps=options.max_steps,
            positions=PositionScheme(config.positions, config.position_count),
            context=config.context,
            context_frames=config.context_frames,
            text_tokens=config.text_tokens if config.text_width else 0,
            text_width=config.text_width,
            learned_variance=config.learned_variance,
            stochastic=options.stochastic,
        )

    def parameters(self, config: TransformerConfig) -> ParameterNames:
        """Return the names of blocks and temporal attention, and of the linears that stay in floating point.

        The first and last layers, the timestep path, the text projection and the merge of the mask channel are a few
        percent of the work, and their rounding errors reach the input of every block.
        """
        qkv = "blocks.{layer}.attn_temp.qkv"
        return ParameterNames(
            block="blocks.{layer}.",
            floating=("x_embedder*", "t_embedder*", "t_block*", "y_embedder*", "final_layer*", "*attn_temp_pre_merge"),
            projections=CacheProjections(
                qkv, qkv, qkv, "blocks.{layer}.attn_temp.proj", pairs=config.positions == "rope"
            ),
        )

    def caution(self, geometry: Geometry) -> str | None:
        """Return a warning if RoPE positions of queries will differ from those of their own keys."""
        count, seen = geometry.positions.count, geometry.slots + geometry.chunk_frames
        if not geometry.positions.rotates_past_keys or count == seen:
            return None
        return (
            f"RoPE has {count} positions, slots + chunk frames are {seen}: once the cache is full, queries are at "
            "the table's end, as in the original code, and not at the positions of their own keys"
        )

    def build(self, config: TransformerConfig) -> CausalTransformer:
        """Return the transformer with random weights."""
        from .transformer import CausalTransformer

        return CausalTransformer(config)

    def select_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights without the buffers that the configuration determines."""
        return {name: tensor for name, tensor in tensors.items() if name.split(".")[-1] not in _REBUILT}

    def make_graphs(
        self, model: CausalTransformer, geometry: Geometry, precision: Precision
    ) -> Mapping[Stage, Exportable]:
        """Return cache fill and cached denoise; FP16 rounds the blocks' weights in place."""
        from .graphs import DenoiseGraph, FillGraph

        if precision == FP16:
            model.use_half_weights()
        return {Stage.FILL: FillGraph(model, geometry), Stage.DENOISE: DenoiseGraph(model, geometry)}

    def null_text(self, model: CausalTransformer) -> Tensor | None:
        """Return the learned null prompt."""
        return None if model.y_embedder is None else model.y_embedder.y_embedding


FAMILY = Ca2Vdm()
