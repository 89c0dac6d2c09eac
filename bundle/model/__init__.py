"""The model's description in a bundle: stages, tensors and their roles, KV cache, positions and parameters."""

from __future__ import annotations

from .cache import CacheLayout, CachePolicy
from .geometry import Geometry
from .parameters import CacheProjections, ParameterNames
from .positions import PositionScheme
from .stage import Stage
from .tensor import CACHE_ROLES, NEXT_STATE, Role, TensorSpec

__all__ = [
    "CACHE_ROLES",
    "NEXT_STATE",
    "CacheLayout",
    "CachePolicy",
    "CacheProjections",
    "Geometry",
    "ParameterNames",
    "PositionScheme",
    "Role",
    "Stage",
    "TensorSpec",
]
