"""The names of a TensorRT release, read from the texts in tests/data/tensorrt_api."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["FOLDER", "RELEASES", "RTX", "ClassNames", "EnumNames", "Names", "Signature", "read_names"]

FOLDER = Path(__file__).parents[2] / "data" / "tensorrt_api"
RELEASES = ("8.5", "10.3", "10.16", "11.4")
# The release of TensorRT for RTX, whose module is tensorrt_rtx.
RTX = "rtx-1.7"


@dataclass(frozen=True)
class EnumNames:
    """An enumeration: its members with their values, and whether they compare with < and >."""

    name: str
    members: dict[str, int]
    ordered: bool


@dataclass(frozen=True)
class Signature:
    """A call signature: names of the arguments, which of them are optional, and the types that are known."""

    arguments: tuple[str, ...]
    optional: frozenset[str]
    types: Mapping[str, str]


@dataclass
class ClassNames:
    """A class: its base, constructors (empty if it cannot be constructed), members and known types of properties."""

    name: str
    base: str | None
    constructors: tuple[Signature, ...]
    methods: dict[str, tuple[Signature, ...]] = field(default_factory=dict)
    properties: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    enums: dict[str, EnumNames] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)


@dataclass
class Names:
    """Every name of a release: module, version, enumerations, classes, functions, and values as "DataType.FLOAT"."""

    module: str
    version: str = ""
    enums: dict[str, EnumNames] = field(default_factory=dict)
    classes: dict[str, ClassNames] = field(default_factory=dict)
    functions: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    @property
    def bindings(self) -> str:
        """The module that the classes say they are of."""
        return f"tensorrt_rtx_bindings.{self.module}" if self.module == "tensorrt_rtx" else f"{self.module}.tensorrt"


def read_names(release: str) -> Names:
    """Read the names of a release: one of RELEASES, or RTX."""
    names = Names("tensorrt_rtx" if release == RTX else "tensorrt")
    current: ClassNames | None = None
    for line in (FOLDER / f"{release}.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("  ") and current is not None:
            _read_member(current, line.split())
        else:
            current = _read_top(names, line.split())
    return names


def _read_top(names: Names, words: list[str]) -> ClassNames | None:
    kind, name, *rest = words
    if kind == "version":
        names.version = name
    elif kind == "enum":
        read = _read_enum(words)
        names.enums[read.name] = read
    elif kind == "value":
        names.values[name] = rest[0]
    elif kind == "function":
        names.functions.append(name)
    else:
        base = rest[1] if rest[:1] == [":"] else None
        constructors = tuple(_read_signatures(" ".join(rest)))
        names.classes[name] = ClassNames(name, base, constructors)
        return names.classes[name]
    return None


def _read_member(owner: ClassNames, words: list[str]) -> None:
    if words[0] == "enum":
        read = _read_enum(words)
        owner.enums[read.name] = read
    elif words[0] == "value":
        owner.values[words[1]] = words[2]
    elif words[1].startswith("("):
        owner.methods[words[0]] = tuple(_read_signatures(" ".join(words[1:])))
    else:
        access, _, kind = words[1].partition(":")
        owner.properties[words[0]] = access
        if kind:
            owner.types[words[0]] = kind


def _read_enum(words: list[str]) -> EnumNames:
    members = {name: int(value) for name, value in (word.split("=") for word in words[2:])}
    return EnumNames(words[1].rstrip("*"), members, words[1].endswith("*"))


def _read_signatures(text: str) -> Iterator[Signature]:
    for inside in re.findall(r"\(([^)]*)\)", text):
        arguments = [part.strip() for part in inside.split(",") if part.strip()]
        declared = [part.rstrip("=").partition(":") for part in arguments]
        names = tuple(name for name, _, _ in declared)
        optional = frozenset(name for name, part in zip(names, arguments, strict=True) if part.endswith("="))
        yield Signature(names, optional, {name: kind for name, _, kind in declared if kind})
