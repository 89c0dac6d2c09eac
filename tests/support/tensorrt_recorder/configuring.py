"""The recorder's builder configuration: flags, limits, profiles and the timing cache."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .memory import host_memory

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["BEHAVIORS"]

_CACHE = b"vdmrt recorder timing cache\n"


class _Profile:
    def _start(self: Any) -> None:
        self._shapes: dict[str, tuple[Any, Any, Any]] = {}

    def set_shape(self: Any, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))

    def get_shape(self: Any, input: str) -> list[Any]:
        return [self._recorder.create("Dims", shape=shape) for shape in self._shapes.get(input, ())]


class _Config:
    def _start(self: Any, builder: Any) -> None:
        self._builder = builder
        self._logger = builder._logger
        self._flags = 1 << int(self._recorder.module.BuilderFlag.TF32)
        self._pools: dict[str, int] = {}
        self._preview: dict[str, bool] = {}
        self._sources = -1
        self._profiles: list[Any] = []
        module = self._recorder.module
        self._p_profiling_verbosity = module.ProfilingVerbosity.LAYER_NAMES_ONLY
        self._p_builder_optimization_level = 3
        self._p_hardware_compatibility_level = self._recorder.enum("HardwareCompatibilityLevel", "NONE")

    def __del__(self: Any) -> None:
        if self._made:
            self._recorder.ended(self)

    @property
    def flags(self: Any) -> int:
        return int(self._flags)

    @flags.setter
    def flags(self: Any, value: int) -> None:
        self._flags = int(value)

    @property
    def num_optimization_profiles(self: Any) -> int:
        return len(self._profiles)

    def set_flag(self: Any, flag: Any) -> None:
        self._flags |= 1 << int(self._own(flag, "BuilderFlag"))

    def clear_flag(self: Any, flag: Any) -> None:
        self._flags &= ~(1 << int(self._own(flag, "BuilderFlag")))

    def get_flag(self: Any, flag: Any) -> bool:
        return bool(self._flags >> int(self._own(flag, "BuilderFlag")) & 1)

    def set_memory_pool_limit(self: Any, pool: Any, pool_size: int) -> None:
        self._pools[self._own(pool, "MemoryPoolType").name] = pool_size

    def get_memory_pool_limit(self: Any, pool: Any) -> int:
        return int(self._pools.get(self._own(pool, "MemoryPoolType").name, 80 << 30))

    def set_preview_feature(self: Any, feature: Any, enable: bool) -> None:
        self._preview[self._own(feature, "PreviewFeature").name] = enable

    def get_preview_feature(self: Any, feature: Any) -> bool:
        return bool(self._preview.get(self._own(feature, "PreviewFeature").name, False))

    def set_tactic_sources(self: Any, tactic_sources: int) -> bool:
        self._sources = tactic_sources
        return True

    def get_tactic_sources(self: Any) -> int:
        return int(self._sources)

    def add_optimization_profile(self: Any, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self: Any, serialized_timing_cache: Any) -> Any:
        data = bytes(memoryview(serialized_timing_cache))
        if data and not data.startswith(_CACHE):
            self._recorder.say(self, "ERROR", "IBuilderConfig::createTimingCache: Error Code 1: Serialization")
            return None
        document = json.loads(data[len(_CACHE) :]) if data else {}
        return self._recorder.create("ITimingCache", config=self, document=document)

    def set_timing_cache(self: Any, cache: Any, ignore_mismatch: bool) -> bool:
        if cache._document and cache._document["made_by"] != _made_by(self._recorder) and not ignore_mismatch:
            self._recorder.say(self, "ERROR", "IBuilderConfig::setTimingCache: the cache was made on another device")
            return False
        self._cache = cache
        return True

    def get_timing_cache(self: Any) -> Any:
        if vars(self).get("_cache") is None:
            self._cache = self._recorder.create("ITimingCache", config=self, document={})
        return self._cache

    def _own(self: Any, member: Any, enum: str) -> Any:
        if type(member) is not getattr(self._recorder.module, enum):
            raise TypeError(f"incompatible function arguments: wanted tensorrt.{enum}, got {member!r}")
        return member

    def _names_of_flags(self: Any) -> list[str]:
        members = self._recorder.module.BuilderFlag.__members__
        return [name for name, member in members.items() if self._flags >> int(member) & 1]


class _TimingCache:
    def _start(self: Any, config: Any, document: dict[str, Any]) -> None:
        self._document = document
        self._keys = set(document.get("keys", ()))

    def serialize(self: Any) -> Any:
        document = {"made_by": _made_by(self._recorder), "keys": sorted(self._keys)}
        return host_memory(self._recorder, _CACHE + json.dumps(document).encode())

    def combine(self: Any, input_cache: Any, ignore_mismatch: bool) -> bool:
        self._keys |= input_cache._keys
        return True

    def reset(self: Any) -> bool:
        self._keys.clear()
        return True


class _Monitor:
    def _start(self: Any) -> None:
        """Do nothing: subclasses are Python code."""


def _made_by(recorder: Recorder) -> str:
    return f"{recorder.version} {recorder.gpu} {recorder.compute_capability}"


BEHAVIORS: dict[str, type] = {
    "IBuilderConfig": _Config,
    "IOptimizationProfile": _Profile,
    "IProgressMonitor": _Monitor,
    "ITimingCache": _TimingCache,
}
