"""The picture autoencoder: each pixel frame, 3 x 64 x 64 in -1..1, to a latent frame, 4 x 16 x 16, and back.

All convolutions run on a 16 x 16 grid: 4 x 4 pixels are rearranged to channels at the input, and channels to pixels at
the output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vdmrt.bundle import Role, TensorSpec
from vdmrt.export.onnx_graph import Exportable

__all__ = ["LATENT_SHAPE", "Decoder", "Encoder"]

LATENT_SHAPE = (4, 16, 16)
_COLOURS = 3
_SIDE = 4
_GRID = 16
_PACKED = _COLOURS * _SIDE**2
_PICTURE = (_COLOURS, _GRID * _SIDE, _GRID * _SIDE)


class Encoder(Exportable):
    """Pictures [n, 3, 64, 64] to latents [n, 4, 16, 16] of about unit variance."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.inputs = (TensorSpec("pictures", "float32", (1, *_PICTURE), Role.PICTURES),)
        self.outputs = (TensorSpec("latent", "float32", (1, *LATENT_SHAPE), Role.LATENT),)
        self.enter = nn.Conv2d(_PACKED, width, 3, padding=1)
        self.leave = nn.Conv2d(width, LATENT_SHAPE[0], 3, padding=1)
        self.direct = nn.Conv2d(_PACKED, LATENT_SHAPE[0], 1)
        self.norm: nn.Module = nn.BatchNorm2d(LATENT_SHAPE[0], affine=False, momentum=0.02)

    def forward(self, pictures: Tensor) -> Tensor:
        """Encode; the running statistics are the scale of the latents."""
        packed = pictures.reshape(-1, _COLOURS, _GRID, _SIDE, _GRID, _SIDE).permute(0, 1, 3, 5, 2, 4)
        packed = packed.reshape(-1, _PACKED, _GRID, _GRID)
        latent: Tensor = self.norm(self.leave(_silu(self.enter(packed))) + self.direct(packed))
        return latent

    @torch.no_grad()
    def fold_norm(self) -> Encoder:
        """Fold the scale of the latents into the weights, in place."""
        if isinstance(self.norm, nn.BatchNorm2d):
            mean, variance = self.norm.running_mean, self.norm.running_var
            assert mean is not None and variance is not None
            gain = (variance + self.norm.eps).rsqrt()
            for layer in (self.leave, self.direct):
                assert layer.bias is not None
                layer.weight.mul_(gain[:, None, None, None])
                layer.bias.mul_(gain)
            assert self.leave.bias is not None
            self.leave.bias.sub_(mean * gain)
            self.norm = nn.Identity()
        return self


class Decoder(Exportable):
    """Latents [n, 4, 16, 16] to pictures [n, 3, 64, 64]; the caller clips them to -1..1."""

    def __init__(self, frames: int = 8, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.inputs = (TensorSpec("latent", "float32", (frames, *LATENT_SHAPE), Role.LATENT),)
        self.outputs = (TensorSpec("pictures", "float32", (frames, *_PICTURE), Role.PICTURES),)
        self.enter = nn.Conv2d(LATENT_SHAPE[0], width, 3, padding=1)
        self.blocks = nn.ModuleList(_Residual(width) for _ in range(depth))
        self.leave = nn.Conv2d(width, _PACKED, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """Decode."""
        x = self.enter(latent)
        for block in self.blocks:
            x = block(x)
        packed = self.leave(_silu(x)).reshape(-1, _COLOURS, _SIDE, _SIDE, _GRID, _GRID)
        pictures: Tensor = packed.permute(0, 1, 4, 2, 5, 3).reshape(-1, *_PICTURE)
        return pictures


class _Residual(nn.Module):
    """Residual block of two convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.second(_silu(self.first(_silu(x))))
        return x + branch


def _silu(x: Tensor) -> Tensor:
    """Apply SiLU, in single operators: no opset of the supported parsers has it."""
    return x * torch.sigmoid(x)
