"""The command that keeps the layers found by a bisection in floating point."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle import FP16, FP16_MIXED
from ...errors import CalibrationError
from ..graph.linears import group_of
from ..request import CACHE_ALONE, MIXED, CalibrationRequest

if TYPE_CHECKING:
    from ...bundle import Bundle, Precision

__all__ = ["remedy_command"]

# Options that are not recorded, or that the command gives separately.
_UNRECORDED = {"bundle", "data", "text", "text_mask", "threads", "observations", "precision", "kv", "keep"}


def remedy_command(
    bundle: Bundle,
    precision: Precision,
    groups: Collection[str],
    layers: Sequence[str],
    *,
    cache: bool,
    data: Path | None,
) -> str:
    """Return the command that calibrates a precision again with some groups of layers kept, quoted for a shell.

    Args:
        bundle: Bundle that contains the precision and its report.
        precision: The bisected precision.
        groups: Groups to keep.
        layers: Every layer of the precision, for the patterns.
        cache: Whether the cache is to stay in floating point.
        data: Clips to observe; None leaves a placeholder, because the bundle does not record their path.

    Returns:
        The command; "" where leaving out the cache leaves nothing in 8 bits.
    """
    patterns = _patterns(groups, layers)
    start = ["vdmrt", "calibrate", str(bundle.path)]
    if precision in (FP16, FP16_MIXED):
        kept = shlex.split(bundle.manifest.provenance.get(str(FP16_MIXED), "")) if precision == FP16_MIXED else []
        return shlex.join([*start, "--precision", MIXED, *kept, *_options({"keep": patterns})])
    made = _recorded_options(bundle, precision)
    kv = None if cache else made["kv"]
    if made["precision"] == CACHE_ALONE and kv is None:
        return ""
    options = {"precision": made["precision"], "kv": kv, "keep": [*made["keep"], *patterns]}
    defaults = {field.name: field.default for field in dataclasses.fields(CalibrationRequest)}
    # A report older than an option lacks it; the default applies.
    changed = {
        name: made[name] for name in defaults if name in made.keys() - _UNRECORDED and made[name] != defaults[name]
    }
    text = ["--text", "TEXT.npy"] if bundle.manifest.geometry.text_width else []
    return shlex.join([*start, "--data", str(data or "CLIPS"), *_options({**options, **changed}), *text])


def _recorded_options(bundle: Bundle, precision: Precision) -> Mapping[str, Any]:
    report = next(one.report for one in bundle.manifest.calibrations if one.precision == precision)
    path = bundle.locate(report)
    try:
        options: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))["options"]
    except (ValueError, KeyError, TypeError) as error:
        raise CalibrationError(f"{path}: not a calibration report: {error!r}; calibrate again") from error
    return options


def _patterns(groups: Collection[str], layers: Sequence[str]) -> list[str]:
    """Return a pattern for each group, or the names of its layers where the pattern would match others too."""
    patterns = []
    for group in groups:
        own = [layer for layer in layers if group_of(layer) == group]
        pattern = f"{group}.*"
        patterns += [pattern] if fnmatch.filter(layers, pattern) == own else own
    return patterns


def _options(options: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, (list, tuple)):
            words += [part for one in value for part in (option, str(one))]
        elif value is True:
            words.append(option)
        elif value is not None and value is not False:
            words += [option, str(value)]
    return words
