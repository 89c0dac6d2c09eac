"""Reading of a model's configuration: a preset's name, or a JSON or YAML file, parsed by the family that it names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError
from .families import DEFAULT_FAMILY, family_names, find_family, find_preset

if TYPE_CHECKING:
    from .families.family import Architecture

__all__ = ["load_config", "name_model", "preset_names"]


def preset_names() -> Iterator[str]:
    """Yield the names of all families' presets."""
    for name in family_names():
        yield from find_family(name).presets


def load_config(source: str | Path, *, latent_size: tuple[int, int] | None = None) -> Any:
    """Read a configuration from a preset's name or from a JSON or YAML file.

    Args:
        source: A name of :func:`preset_names`, or a file with the constructor arguments, plain or under ``model``. Its
            ``family`` names the family; the default is the family of the preset that ``type`` names, else Ca2-VDM. A
            preset that ``type`` names supplies the arguments that the file leaves out.
        latent_size: Height and width of a latent frame instead of the file's.

    Returns:
        The configuration, of the family's class.

    Raises:
        ExportError: The file is missing or not JSON or YAML, or an argument is unknown or out of range.
        ValueError: ``latent_size`` does not fit the patch size.
    """
    arguments = {"type": str(source)} if find_preset(str(source)) else _read(Path(source))
    try:
        return config_from_arguments(arguments, latent_size=latent_size)
    except ExportError as error:
        raise ExportError(f"{source}: {error}") from error


def config_from_arguments(arguments: dict[str, Any], *, latent_size: tuple[int, int] | None = None) -> Architecture:
    """Convert constructor arguments with the family that they name; see :func:`load_config`."""
    given = dict(arguments)
    named = given.pop("family", None)
    preset = find_preset(str(given.get("type")))
    family = find_family(str(named)) if named is not None else preset or find_family(DEFAULT_FAMILY)
    architecture: Architecture = family.read_config(given, latent_size)
    return architecture


def name_model(source: str | Path) -> str:
    """Return a name for the model of a configuration: the preset's, or the file's.

    For a file named just "config", as beside most checkpoints, the folder's name is used.
    """
    if find_preset(str(source)):
        return str(source)
    path = Path(source)
    is_nameless = path.stem.lower() in ("config", "model", "transformer_config", "model_config")
    return (path.resolve().parent.name if is_nameless else "") or path.stem


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        presets = ", ".join(preset_names())
        raise ExportError(f"{path}: not a readable JSON or YAML file and no preset ({presets}): {error}") from error
    document = _parse(path, text)
    if isinstance(document, dict) and isinstance(document.get("model"), dict):
        document = document["model"]
    if not isinstance(document, dict):
        raise ExportError(f"{path}: wanted a mapping of constructor arguments, found {type(document).__name__}")
    return document


def _parse(path: Path, text: str) -> Any:
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ExportError(f"{path}: not JSON: {error}") from error
    import yaml  # needed for YAML files only

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ExportError(f"{path}: neither JSON nor YAML: {str(error).splitlines()[0]}") from error
