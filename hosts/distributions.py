"""Distributions that vdmrt can use: which are installed, and the commands that complete its extras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..bundle import version_numbers
from .extras import install_command, installed_versions
from .onnxruntime import ONNXRUNTIMES, onnxruntime_distributions

__all__ = [
    "EXTRAS",
    "REQUIRED",
    "Extra",
    "Package",
    "check_extra",
    "complete_command",
    "find_unmet",
    "installed_distributions",
    "list_packages",
    "requirement_names",
]

# As in pyproject.toml; a test compares the two.
REQUIRED = ("numpy>=1.23", "click>=8.4", "rich>=13", "pillow>=10", "av>=12", "safetensors>=0.4.3")
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "cpu": ("onnxruntime>=1.20",),
    "cuda": ("onnxruntime-gpu>=1.20", "cuda-bindings>=12.8"),
    "tensorrt": ("tensorrt>=10.3", "onnx>=1.17", "cuda-bindings>=12.8"),
    "tensorrt-rtx": ("tensorrt-rtx>=1.7", "onnx>=1.17", "cuda-bindings>=12.8"),
    "profile": ("nvidia-ml-py>=12.560", "nvtx>=0.2.10", "prometheus-client>=0.20"),
    "calibrate": ("onnxruntime>=1.20", "onnx>=1.17", "onnx-ir>=0.1.7"),
    "export": ("torch>=2.9", "onnx>=1.17", "onnxscript>=0.5", "pyyaml>=6"),
}
# Distributions that meet a requirement under another name.
_ALTERNATIVES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ONNXRUNTIMES,
    "tensorrt": ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
    "tensorrt-rtx": ("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13"),
}


@dataclass(frozen=True)
class Package:
    """A distribution that vdmrt can use, and its installed version or None."""

    name: str
    version: str | None


@dataclass(frozen=True)
class Extra:
    """One of vdmrt's extras.

    Attributes:
        name: As in ``vdmrt[name]``.
        missing: Requirements that are not met; none when the extra is complete.
        command: The command that completes it, or None.
    """

    name: str
    missing: tuple[str, ...]
    command: str | None


def installed_distributions() -> dict[str, str]:
    """Return the versions of the distributions that vdmrt knows, by name. Imports none of them."""
    return installed_versions(_known_names())


def list_packages(installed: Mapping[str, str]) -> tuple[Package, ...]:
    """Return the packages that vdmrt requires, installed or not, and their installed substitutes."""
    asked = {_split(requirement)[0] for requirement in _requirements()}
    names = [name for name in _known_names() if name in asked or name in installed]
    return tuple(Package(name, installed.get(name)) for name in names)


def check_extra(name: str, installed: Mapping[str, str]) -> Extra:
    """Compare an extra with the installed distributions."""
    missing = tuple(wanted for wanted in EXTRAS[name] if not _is_met(wanted, installed))
    return Extra(name, missing, complete_command(name, installed) if missing else None)


def complete_command(extra: str, installed: Mapping[str, str]) -> str:
    """Return the command that completes an extra; it first removes an ONNX Runtime that would be overwritten."""
    wanted = {_split(requirement)[0] for requirement in EXTRAS[extra]} & set(ONNXRUNTIMES)
    present = onnxruntime_distributions(installed)
    return install_command(extra, remove=present if wanted and set(present) - wanted else ())


def find_unmet(installed: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each of vdmrt's own requirements that is not met."""
    for wanted in REQUIRED:
        if not _is_met(wanted, installed):
            found = installed.get(_split(wanted)[0], "nothing")
            yield f"vdmrt needs {wanted}, found {found}: pip install '{wanted}'"


def requirement_names(name: str) -> tuple[str, ...]:
    """Return the distributions that meet the first requirement of an extra, under every name."""
    first = _split(EXTRAS[name][0])[0]
    return _ALTERNATIVES.get(first, (first,))


def _requirements() -> tuple[str, ...]:
    return (*REQUIRED, *(requirement for extra in EXTRAS.values() for requirement in extra))


def _known_names() -> tuple[str, ...]:
    names = [_split(requirement)[0] for requirement in _requirements()]
    alternatives = [name for group in _ALTERNATIVES.values() for name in group]
    return tuple(dict.fromkeys((*names, *alternatives)))


def _split(requirement: str) -> tuple[str, str]:
    name, _, floor = requirement.partition(">=")
    return name, floor


def _is_met(requirement: str, installed: Mapping[str, str]) -> bool:
    name, floor = _split(requirement)
    candidates = _ALTERNATIVES.get(name, (name,))
    return any(version_numbers(installed[c]) >= version_numbers(floor) for c in candidates if c in installed)
