"""Embeddings of latents, positions, timesteps and text (Ca2-VDM section 3, DiT section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = [
    "PatchEmbedding",
    "TextEmbedding",
    "TimestepEmbedding",
    "gelu",
    "rope_table",
    "spatial_positions",
    "temporal_positions",
]

_TIMESTEP_FREQUENCIES = 128


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Embed positions as [all sines, all cosines] (Vaswani et al. 2017, section 3.5, with the halves not interleaved).

    Args:
        positions: Any values, float64, [n].
        width: Even width of the embedding.

    Returns:
        Float64, [n, width].
    """
    half = width // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = positions[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def spatial_positions(rows: int, columns: int, width: int, scale: float) -> Tensor:
    """Return the table of token positions in one latent frame, float32, [1, rows * columns, width].

    Column first: the reference embeds (column, row), in row-major token order.
    """
    half = width // 2
    by_row = sinusoids(torch.arange(rows, dtype=torch.float64) / scale, half).float()
    by_column = sinusoids(torch.arange(columns, dtype=torch.float64) / scale, half).float()
    table = torch.cat(
        [by_column[None].expand(rows, -1, -1), by_row[:, None].expand(-1, columns, -1)],
        dim=-1,
    )
    return table.reshape(1, rows * columns, width)


def temporal_positions(count: int, width: int, scale: float) -> Tensor:
    """Return the table of temporal positions, float32, [1, count, width]."""
    return sinusoids(torch.arange(count, dtype=torch.float64) / scale, width)[None].float()


def rope_table(count: int, head_size: int) -> Tensor:
    """Return cosines and sines of the rotary embedding, float32, [2, count, head_size / 2] (Su et al. 2021, eq. 15)."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
    angles = torch.outer(torch.arange(count, dtype=torch.float32), 1.0 / 10000.0**exponents)
    return torch.stack([angles.cos(), angles.sin()])


def gelu(x: Tensor) -> Tensor:
    """Apply GELU in its tanh form (Hendrycks & Gimpel 2016).

    Exported as single operators: opset 18 has no Gelu, and ONNX Runtime fuses exactly this order of products. FP16 is
    safe: tanh saturates at 1 long before x·x overflows.
    """
    if not torch.compiler.is_exporting():
        return nn.functional.gelu(x, approximate="tanh")
    inner = math.sqrt(2.0 / math.pi) * x * (1.0 + 0.044715 * x * x)
    return 0.5 * x * (1.0 + torch.tanh(inner))


class PatchEmbedding(nn.Module):
    """Embeds each p × p patch as one token: a convolution with kernel size and stride p."""

    def __init__(self, channels: int, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        patch = (1, patch_size, patch_size)
        self.proj = nn.Conv3d(channels, hidden_size, kernel_size=patch, stride=patch)

    def forward(self, latent: Tensor) -> Tensor:
        """Embed ``latent`` [rows, frames, c, h, w], float32, as tokens [rows, frames, S, C]."""
        rows, frames, channels, height, width = latent.shape
        p = self.patch_size
        grid = latent.reshape(rows * frames, channels, height // p, p, width // p, p)
        patches = grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * p * p)
        # A matrix product instead of Conv3d: the same sum, and every runtime has a fast one.
        weight = self.proj.weight.reshape(self.proj.weight.shape[0], -1)
        tokens = nn.functional.linear(patches, weight, self.proj.bias)
        return tokens.reshape(rows, frames, -1, weight.shape[0])


class TimestepEmbedding(nn.Module):
    """Embeds a timestep of the training process: cosines, then sines, then an MLP."""

    frequencies: Tensor

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * _TIMESTEP_FREQUENCIES, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size)
        )
        steps = torch.arange(_TIMESTEP_FREQUENCIES, dtype=torch.float32) / _TIMESTEP_FREQUENCIES
        self.register_buffer("frequencies", torch.exp(-math.log(10000.0) * steps), persistent=False)

    def forward(self, timesteps: Tensor) -> Tensor:
        """Embed ``timesteps`` [n], float32, as [n, C]."""
        angles = timesteps[:, None] * self.frequencies
        embedding: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))
        return embedding


class TextEmbedding(nn.Module):
    """Projects text embeddings to the model's width; holds the learned null prompt."""

    y_embedding: Tensor

    def __init__(self, text_width: int, hidden_size: int, tokens: int) -> None:
        super().__init__()
        self.register_buffer("y_embedding", torch.zeros(tokens, text_width))
        self.y_proj = nn.ModuleDict(
            {"fc1": nn.Linear(text_width, hidden_size), "fc2": nn.Linear(hidden_size, hidden_size)}
        )

    def forward(self, text: Tensor) -> Tensor:
        """Project ``text`` [rows, tokens, width], float32, to [rows, tokens, C]."""
        rows, tokens, width = text.shape
        hidden = gelu(self.y_proj["fc1"](text.reshape(-1, width)))
        projected: Tensor = self.y_proj["fc2"](hidden)
        return projected.reshape(rows, tokens, -1)
