"""RMS norms in operators that every supported ONNX parser reads."""

from __future__ import annotations

import copy
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .attention import RmsNorm

if TYPE_CHECKING:
    from .transformer import CausalWan

__all__ = ["with_plain_norms"]


class PlainRmsNorm(RmsNorm):
    """The same norm as a layer norm of x and -x together, whose mean is 0 and whose variance is x's mean square.

    The parser of TensorRT 8.5 reads neither Pow and Reciprocal nor the ReduceMean of opset 18, to which square, rsqrt
    and mean are exported.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x [..., C]."""
        wide = x.float()
        width = wide.shape[-1]
        normed = nn.functional.layer_norm(torch.cat([wide, -wide], dim=-1), (2 * width,), eps=self.eps)[..., :width]
        return normed.to(x.dtype) * self.weight.to(x.dtype)


def with_plain_norms(model: CausalWan) -> CausalWan:
    """Return a model that shares all parameters and buffers of ``model``, for tracing."""
    shared = copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})
    for module in list(shared.modules()):
        for name, norm in module.named_children():
            if isinstance(norm, RmsNorm):
                setattr(module, name, _plain(norm))
    return shared


def _plain(norm: RmsNorm) -> nn.Module:
    plain = PlainRmsNorm(len(norm.weight), norm.eps)
    plain.weight = norm.weight
    return plain
