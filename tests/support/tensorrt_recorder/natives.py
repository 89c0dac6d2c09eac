"""Classes and enumerations with exactly the names of a release; others raise the same errors as in TensorRT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .arguments import bind, is_of_type
from .names import ClassNames, EnumNames, Signature

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["Native", "RecorderError", "build_class", "build_enum"]

_BYTES_NAMES = frozenset({"__class__", "__dict__", "__doc__", "__module__"})


class RecorderError(AssertionError):
    """The code under test would crash or corrupt the process with the real TensorRT."""


class _Enum:
    """A pybind11 enumeration: not an int, and comparable only with its own members."""

    __members__: dict[str, Any] = {}
    _ordered = False

    def __init__(self, value: int) -> None:
        self._value = value

    @property
    def value(self) -> int:
        return self._value

    @property
    def name(self) -> str:
        return next(name for name, member in self.__members__.items() if member._value == self._value)

    def __int__(self) -> int:
        return self._value

    __index__ = __int__

    def __hash__(self) -> int:
        return hash(self._value)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._value == self._value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self._value}>"

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __lt__(self, other: Any) -> Any:
        return self._value < other._value if self._comparable(other) else NotImplemented

    def __le__(self, other: Any) -> Any:
        return self._value <= other._value if self._comparable(other) else NotImplemented

    def __gt__(self, other: Any) -> Any:
        return self._value > other._value if self._comparable(other) else NotImplemented

    def __ge__(self, other: Any) -> Any:
        return self._value >= other._value if self._comparable(other) else NotImplemented

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "_value":
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        object.__setattr__(self, name, value)

    def _comparable(self, other: object) -> bool:
        return self._ordered and type(other) is type(self)


class _NativeType(type):
    """Metaclass with pybind11's rules: a class needs a constructor, and a subclass must initialize its base."""

    _names: ClassNames
    _native_type: type[Native]

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        if not cls._names.constructors:
            raise TypeError(f"{cls.__module__}.{cls.__name__}: No constructor defined!")
        made = super().__call__(*arguments, **named)
        if not made._made:
            native = cls._native_type
            raise TypeError(f"{native.__module__}.{native.__name__}.__init__() must be called when overriding __init__")
        return made

    def __setattr__(cls, name: str, value: Any) -> None:
        raise AttributeError(f"type object '{cls.__name__}' has no attribute '{name}' to be set")


class Native(metaclass=_NativeType):
    """An object of TensorRT. Names that begin with an underscore are the recorder's own."""

    _names: ClassNames
    _recorder: Recorder
    _native_type: type[Native]
    _made = False
    _label = ""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        bound = bind(self._recorder.module, self._names.name, "__init__", self._names.constructors, arguments, named)
        self._recorder.make(self, bound)

    def __setattr__(self, name: str, value: Any) -> None:
        native = type(self) is self._native_type
        if native and not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"'{type(self).__module__}.{self._names.name}' object has no attribute '{name}'")
        object.__setattr__(self, name, value)

    def _start(self, **state: Any) -> None:
        """Initialize the object; behaviors override it."""


def build_enum(names: EnumNames, bindings: str, extra: Mapping[str, Any] | None = None) -> type[_Enum]:
    """Create an enumeration."""
    body = {"__members__": {}, "_ordered": names.ordered, "__module__": bindings, **(extra or {})}
    built: type[_Enum] = type(names.name, (_Enum,), body)
    for name, value in names.members.items():
        member = built(value)
        built.__members__[name] = member
        setattr(built, name, member)
    return built


def build_class(
    names: ClassNames, base: type[Native] | None, behavior: type | None, recorder: Recorder
) -> type[Native]:
    """Create a class with the release's names; ``behavior`` implements those that are modeled."""
    body: dict[str, Any] = {"_names": names, "_recorder": recorder, "__module__": recorder.names.bindings}
    known = vars(behavior) if behavior is not None else {}
    for name, value in known.items():
        if name.startswith("_") and name not in _BYTES_NAMES and name not in ("__weakref__", "__annotations__"):
            body[name] = value
    for name, signatures in names.methods.items():
        body[name] = _method(names.name, name, signatures, known.get(name))
    for name, access in names.properties.items():
        body[name] = _property(names, name, access, known.get(name))
    for name, nested in names.enums.items():
        body[name] = build_enum(nested, recorder.names.bindings)
    for name, path in names.values.items():
        enum, member = path.split(".")
        body[name] = body[enum].__members__[member]
    built: Any = _NativeType(names.name, (base or Native,), body)
    type.__setattr__(built, "_native_type", built)
    made: type[Native] = built
    return made


def _method(owner: str, name: str, signatures: tuple[Signature, ...], behavior: Any) -> Any:
    def call(self: Native, *arguments: Any, **named: Any) -> Any:
        bound = bind(self._recorder.module, owner, name, signatures, arguments, named)
        return self._recorder.run(self, owner, name, bound, behavior)

    call.__name__ = name
    return call


def _property(names: ClassNames, name: str, access: str, behavior: Any) -> property:
    owner, kind = names.name, names.types.get(name)
    own_get = getattr(behavior, "fget", None)
    own_set = getattr(behavior, "fset", None)

    def get(self: Native) -> Any:
        if own_get is not None:
            return own_get(self)
        if "r" == access and f"_p_{name}" not in vars(self):
            raise NotImplementedError(f"the recorder does not model {owner}.{name}")
        return vars(self).get(f"_p_{name}")

    def set_value(self: Native, value: Any) -> None:
        def store(owner_: Native, value: Any) -> None:
            if own_set is not None:
                own_set(owner_, value)
            else:
                object.__setattr__(owner_, f"_p_{name}", value)

        if kind is not None and value is not None and not is_of_type(self._recorder.module, kind, value):
            raise TypeError(f"(): incompatible function arguments: {owner}.{name} is of type {kind}, not {value!r}")
        self._recorder.run(self, owner, f"{name}=", {"value": value}, store)

    return property(get if "r" in access else None, set_value if "w" in access else None)
