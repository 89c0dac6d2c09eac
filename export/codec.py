"""The preview codec: a fixed map between pictures and latents, used where no VAE was exported.

Eight-fold mean pooling to one latent channel for each color, and bilinear upsampling back. It shows composition and
motion, but no detail.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..bundle import Role, TensorSpec
from .onnx_graph import Exportable

__all__ = ["PreviewDecoder", "PreviewEncoder"]

FACTOR = 8
_COLOURS = 3
# Pictures are in -1..1, latents of a VAE have about unit variance.
_GAIN = 2.0


class PreviewEncoder(Exportable):
    """Pictures [1, 3, 8h, 8w] in -1..1 to a latent [1, c, h, w]."""

    pool_rows: Tensor
    pool_columns: Tensor

    def __init__(self, latent_shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = latent_shape
        self.extra = channels - _COLOURS
        self.inputs = (
            TensorSpec("pictures", "float32", (1, _COLOURS, height * FACTOR, width * FACTOR), Role.PICTURES),
        )
        self.outputs = (TensorSpec("latent", "float32", (1, *latent_shape), Role.LATENT),)
        self.register_buffer("pool_rows", _pooling(height))
        self.register_buffer("pool_columns", _pooling(width).T.contiguous())

    def forward(self, pictures: Tensor) -> Tensor:
        """Pool; channels beyond the colors hold the mean of the colors."""
        colors = self.pool_rows @ pictures @ self.pool_columns * _GAIN
        if self.extra == 0:
            return colors
        gray = (colors[:, 0:1] + colors[:, 1:2] + colors[:, 2:3]) * (1.0 / _COLOURS)
        return torch.cat([colors] + [gray] * self.extra, dim=1)


class PreviewDecoder(Exportable):
    """Latents [T, c, h, w] to pictures [T, 3, 8h, 8w]; the caller clips them to -1..1."""

    enlarge_rows: Tensor
    enlarge_columns: Tensor

    def __init__(self, latent_shape: tuple[int, int, int], frames: int) -> None:
        super().__init__()
        _, height, width = latent_shape
        self.inputs = (TensorSpec("latent", "float32", (frames, *latent_shape), Role.LATENT),)
        pictures = frames, _COLOURS, height * FACTOR, width * FACTOR
        self.outputs = (TensorSpec("pictures", "float32", pictures, Role.PICTURES),)
        self.register_buffer("enlarge_rows", _enlargement(height))
        self.register_buffer("enlarge_columns", _enlargement(width).T.contiguous())

    def forward(self, latent: Tensor) -> Tensor:
        """Upsample the color channels; the other channels are derived from them."""
        return self.enlarge_rows @ latent[:, :_COLOURS] @ self.enlarge_columns * (1.0 / _GAIN)


def _pooling(count: int) -> Tensor:
    """Return the matrix [count, 8 * count] of eight-fold mean pooling."""
    return torch.eye(count).repeat_interleave(FACTOR, dim=1) / FACTOR


def _enlargement(count: int) -> Tensor:
    """Return the matrix [8 * count, count] of bilinear upsampling."""
    eye = torch.eye(count)[None]
    enlarged = nn.functional.interpolate(eye, scale_factor=FACTOR, mode="linear", align_corners=False)
    return enlarged[0].T.contiguous()
