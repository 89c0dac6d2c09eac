"""Replacement of the module of one release of TensorRT: has its exact names, records all calls, computes nothing."""

from __future__ import annotations

import collections
import importlib.machinery
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from . import building, caching, configuring, defining, inspecting, parsing, running
from .memory import host_memory_class
from .names import RTX, Names, read_names
from .natives import Native, RecorderError, build_class, build_enum

__all__ = ["Call", "Recorder", "install"]

_DEFAULT_ITEMSIZE = {"FLOAT": 4, "INT32": 4, "HALF": 2, "BF16": 2, "INT64": 8, "INT4": 0.5, "FP4": 0.5}


@dataclass(frozen=True)
class Call:
    """A call: object ("IExecutionContext#1"), method ("execute_async_v3", "device_memory="), arguments by name.

    TensorRT objects among the arguments are replaced by their labels, so that the record keeps none alive.
    """

    subject: str
    name: str
    arguments: dict[str, Any]


@dataclass
class _Failure:
    name: str
    at: int
    returns: Any
    error: BaseException | None
    log: str
    seen: int = 0


@dataclass
class Recorder:
    """Recorder of one TensorRT release. Its attributes configure the simulated machine and may be set at any time.

    Attributes:
        release: "8.5", "10.3", "10.16", "11.4", or RTX: TensorRT for RTX, which only deserializes and runs.
        driver: Whether there is a driver; without one the factories fail as the release's do.
        gpu: Name of the GPU that plans are built on and run on.
        compute_capability: Compute capability of that GPU; by default "9.0", for RTX "8.9".
        driver_version: CUDA version of the driver, which a runtime cache is tied to.
        has_context: Whether a CUDA context is current; reading a runtime cache needs one.
        is_capturing: Whether a stream is being captured; a first run in a capture fails, since it compiles kernels.
        capturable: What contexts say of a stream when they are asked whether it can be captured.
        scratch_nbytes: Device memory that contexts need, for plans built from now on.
        alignment: Boundary in bytes that addresses of tensors must be on.
        workspace_nbytes: Workspace that a build needs; less makes it fail.
        build_seconds: How long a build takes, in ``build_steps`` steps. As in TensorRT's own code, signals are only
            handled in a progress monitor meanwhile.
        build_steps: Steps that a progress monitor is called for.
        unsupported: Operators that the parser lacks, in addition to those that the release lacks.
        layer_type: Given a layer's ONNX operator and the type that it would run in, the type it does run in:
            "float32", "float16", ...; for engines that silently become another type.
        fuse: Whether the inspector shows one opaque layer, as for a transformer that was fused completely.
        layer_ms: Given a layer's name and the number of the profiled run, from 1: the milliseconds to report for
            the layer.
        on_enqueue: Called with the context and the stream instead of enqueuing a run.
        before: Called with each call before anything else.
        calls: Recorded calls, in order; destruction is recorded as ``__del__``.
        log: Logged messages: (severity's name, message).
        compiled: Kernels that contexts of TensorRT for RTX compiled because no runtime cache had them.
    """

    release: str
    driver: bool = True
    gpu: str = "NVIDIA Recorder"
    compute_capability: str = ""
    driver_version: tuple[int, int] = (13, 0)
    has_context: Callable[[], bool] = lambda: True
    is_capturing: Callable[[int], bool] = lambda stream: False
    capturable: bool = True
    scratch_nbytes: int = 1 << 16
    alignment: int = 256
    workspace_nbytes: int = 0
    build_seconds: float = 0.0
    build_steps: int = 4
    unsupported: set[str] = field(default_factory=set)
    layer_type: Callable[[str, str], str] | None = None
    fuse: bool = False
    layer_ms: Callable[[str, int], float] = lambda name, run: 0.0
    on_enqueue: Callable[[Any, int], None] | None = None
    before: Callable[[Call], None] | None = None
    calls: list[Call] = field(default_factory=list)
    log: list[tuple[str, str]] = field(default_factory=list)
    compiled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names: Names = read_names(self.release)
        self.compute_capability = self.compute_capability or ("8.9" if self.is_rtx else "9.0")
        self._failures: list[_Failure] = []
        self._counts: collections.Counter[str] = collections.Counter()
        self._alive: weakref.WeakValueDictionary[str, Native] = weakref.WeakValueDictionary()
        self.module = self._build_module()

    @property
    def version(self) -> str:
        """The release's full version, as in ``tensorrt.__version__``."""
        return self.names.version

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT for RTX."""
        return self.release == RTX

    @property
    def major(self) -> int:
        """The release's first number; TensorRT for RTX counts as 11, whose names it shares."""
        return 11 if self.is_rtx else int(self.release.partition(".")[0])

    @property
    def minor(self) -> int:
        """The release's second number."""
        return int(self.release.partition(".")[2])

    def named(self, name: str) -> list[Call]:
        """Return the calls with a name, or with class and name as "IExecutionContext.execute_async_v3"."""
        owner, _, method = name.rpartition(".")
        return [
            call
            for call in self.calls
            if call.name == method and (not owner or call.subject.partition("#")[0] == owner)
        ]

    def loggers_of(self, owner: str) -> list[Any]:
        """Return the loggers of live objects of a class."""
        return [vars(thing)["_logger"] for thing in self._alive.values() if thing._names.name == owner]

    def alive(self, owner: str) -> int:
        """Return the number of live objects of a class."""
        return sum(thing._names.name == owner for thing in self._alive.values())

    def fail(
        self, name: str, *, at: int = 1, returns: Any = None, error: BaseException | None = None, log: str = ""
    ) -> None:
        """Make a call fail.

        Args:
            name: The method, or class and method.
            at: Number of the call that fails, counted from now; 0 for all.
            returns: The value that it returns, unless ``error`` is given.
            error: The exception that it raises.
            log: Error message that it logs first.
        """
        self._failures.append(_Failure(name, at, returns, error, log))

    # Used by the classes.

    def make(self, thing: Native, bound: dict[str, Any]) -> None:
        """Initialize an object, from its constructor or from a factory through ``create``."""
        owner = thing._names.name
        self._counts[owner] += 1
        thing._label = f"{owner}#{self._counts[owner]}"
        self._alive[thing._label] = thing
        call = _record(thing, "__init__", bound)
        self.calls.append(call)
        if self.before is not None:
            self.before(call)
        thing._start(**bound)
        thing._made = True

    def create(self, owner: str, **state: Any) -> Any:
        """Create an object of a class without a constructor."""
        built: Any = getattr(self.module, owner)
        thing = built.__new__(built)
        self._counts[owner] += 1
        thing._label = f"{owner}#{self._counts[owner]}"
        self._alive[thing._label] = thing
        thing._start(**state)
        thing._made = True
        return thing

    def run(self, thing: Native, owner: str, name: str, bound: dict[str, Any], behavior: Any) -> Any:
        """Record a call, then fail if configured, otherwise run its behavior."""
        if not thing._made:
            raise RecorderError(f"{owner}.{name} was called before {owner}.__init__()")
        call = _record(thing, name, bound)
        self.calls.append(call)
        if self.before is not None:
            self.before(call)
        failure = self._failing(owner, name)
        if failure is not None:
            if failure.log:
                self.say(thing, "ERROR", failure.log)
            if failure.error is not None:
                # A new exception each time, because a traceback would keep the called object alive.
                raise type(failure.error)(*failure.error.args)
            return failure.returns
        if behavior is None:
            raise NotImplementedError(f"the recorder does not model {owner}.{name}")
        return behavior(thing, **bound)

    def ended(self, thing: Native) -> None:
        """Record an object's destruction."""
        self.calls.append(Call(thing._label, "__del__", {}))

    def say(self, thing: Native, severity: str, message: str) -> None:
        """Log through the logger that the object was created with."""
        self.log.append((severity, message))
        logger: Any = getattr(thing, "_logger", None)
        if logger is None:
            return
        if not isinstance(logger, self.module.ILogger):
            raise RecorderError(f"{thing._label} has no living logger: {logger!r}")
        try:
            logger.log(self.module.ILogger.Severity.__members__[severity], message)
        except Exception as error:
            raise RecorderError(f"log() raised {error!r}: TensorRT ends the process there") from error

    def enum(self, owner: str, member: str) -> Any:
        """Return a member of an enumeration, or None where the release lacks it."""
        return getattr(getattr(self.module, owner, None), member, None)

    def _failing(self, owner: str, name: str) -> _Failure | None:
        found = None
        for failure in self._failures:
            if failure.name in (name, f"{owner}.{name}"):
                failure.seen += 1
                if found is None and failure.at in (0, failure.seen):
                    found = failure
        return found

    def _build_module(self) -> Any:
        module: Any = types.ModuleType(self.names.module)
        module.__spec__ = importlib.machinery.ModuleSpec(self.names.module, None)
        module.__version__ = self.version
        for name, names in self.names.enums.items():
            extra = {"itemsize": property(_itemsize)} if name == "DataType" else None
            setattr(module, name, build_enum(names, self.names.bindings, extra))
        parts = (building, caching, configuring, defining, inspecting, parsing, running)
        behaviors = {name: behavior for part in parts for name, behavior in part.BEHAVIORS.items()}
        for name, owner in self.names.classes.items():
            base = getattr(module, owner.base) if owner.base else None
            setattr(module, name, build_class(owner, base, behaviors.get(name), self))
        module.IHostMemory = host_memory_class(self)
        for name, path in self.names.values.items():
            enum, member = path.split(".")
            setattr(module, name, getattr(getattr(module, enum), member))
        for name in self.names.functions:
            setattr(module, name, self._function(name))
        return module

    def _function(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append(
                Call("tensorrt", name, {**{str(at): repr(value) for at, value in enumerate(arguments)}, **named})
            )
            if name == "init_libnvinfer_plugins":
                return True
            if name == "volume":
                return _volume(*arguments)
            if name == "nptype" and self.major < 10:
                # 8.5's own code fails so with NumPy 1.24 and later.
                raise AttributeError("module 'numpy' has no attribute 'bool'")
            raise NotImplementedError(f"the recorder does not model tensorrt.{name}")

        call.__name__ = name
        return call


@contextmanager
def install(release: str, **settings: Any) -> Iterator[Recorder]:
    """Replace the release's module by its recorder inside the block, and restore it afterwards.

    Args:
        release: "8.5", "10.3", "10.16" or "11.4" for ``tensorrt``, RTX for ``tensorrt_rtx``.
        settings: Attributes of :class:`Recorder`.
    """
    recorder = Recorder(release, **settings)
    replaced = recorder.names.module
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == replaced}
    for name in before:
        del sys.modules[name]
    sys.modules[replaced] = recorder.module
    try:
        yield recorder
    finally:
        del sys.modules[replaced]
        sys.modules.update(before)


def _record(thing: Native, name: str, bound: dict[str, Any]) -> Call:
    """Return the record of a call, with labels instead of objects, so that none is kept alive."""
    noted = {key: value._label if isinstance(value, Native) else value for key, value in bound.items()}
    return Call(thing._label, name, noted)


def _itemsize(member: Any) -> float:
    return _DEFAULT_ITEMSIZE.get(member.name, 1)


def _volume(sides: Any) -> int:
    volume = 1
    for side in sides:
        volume *= side
    return volume
