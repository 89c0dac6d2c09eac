"""Results of measuring a bundle's graphs, in ``measured.json``, which changes when something is measured again.

The file is no part of what is hashed. Each result names the graphs that it is of, and says nothing about others.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from ..errors import BundleError
from .precision import Precision
from .quantities import format_count
from .storage.decoding import InvalidDocument, decode, encode
from .storage.files import write_file

if TYPE_CHECKING:
    from .folder import Bundle

__all__ = ["Accuracy", "Measured", "Speed", "describe_speed", "read_measured", "record_measured"]

_FILE = "measured.json"
_SCHEMA = 1


@dataclass(frozen=True)
class Accuracy:
    """The result of ``vdmrt verify`` for a precision.

    Attributes:
        precision: What was measured.
        against: What it was compared with.
        chunks: Autoregressive steps.
        seeds: Rollouts.
        passed: Whether every gate held.
        figures: The figures by name: "free-running psnr", in dB, and so on.
        graphs_sha256: Of the graphs that were measured.
        backend: What ran them, in one line; "" where that was not recorded.
    """

    precision: Precision
    against: str
    chunks: int
    seeds: int
    passed: bool
    figures: Mapping[str, float]
    graphs_sha256: str
    backend: str = ""

    def describe(self) -> str:
        """Describe it in one line."""
        figures = ", ".join(f"{name} {value:.3g}" for name, value in self.figures.items())
        verdict = "every gate held" if self.passed else "A GATE WAS MISSED"
        ran = f", run by {self.backend}" if self.backend else ""
        over = format_count(self.chunks, "chunk")
        return f"{self.precision} against {self.against} over {over}{ran}: {figures}; {verdict}"


@dataclass(frozen=True)
class Speed:
    """Speed of a quantized precision relative to a floating point one, a denoising step at a full cache, in turn.

    Attributes:
        precision: What was measured.
        against: The precision that it was compared with.
        backend: What ran both, in one line.
        ratio: Median of the other's time over its own; above 1 it is faster.
        low: Lower end of the 99 % interval of that median.
        high: Upper end.
        pairs: Neighboring runs.
        accepted: Whether it was asked for however slow.
        graphs_sha256: Of the graphs that were measured.
    """

    precision: Precision
    against: Precision
    backend: str
    ratio: float
    low: float
    high: float
    pairs: int
    accepted: bool
    graphs_sha256: str

    @property
    def faster(self) -> bool:
        """Whether it was shown to be faster: the whole interval is above 1."""
        return self.low > 1

    def describe(self) -> str:
        """Describe it in one line."""
        compared = describe_speed(self.precision, self.against, self.ratio, self.low, self.high)
        return f"{compared}, {self.pairs} pairs of denoising steps, {self.backend}"


@dataclass(frozen=True)
class Measured:
    """The results of a bundle, at most one of each kind for a precision.

    Attributes:
        accuracy: Results of ``vdmrt verify``.
        speeds: Speeds relative to floating point.
        schema: Version of this format.
    """

    accuracy: tuple[Accuracy, ...] = ()
    speeds: tuple[Speed, ...] = ()
    schema: int = field(default=_SCHEMA)


def read_measured(bundle: Bundle) -> Measured:
    """Return what was measured of the graphs that the bundle has; results of other graphs are left out.

    Raises:
        BundleError: The file is damaged, or of a newer schema.
    """
    found = _read(bundle)
    return Measured(_current(bundle, found.accuracy), _current(bundle, found.speeds))


def record_measured(bundle: Bundle, *, accuracy: Sequence[Accuracy] = (), speeds: Sequence[Speed] = ()) -> None:
    """Add results to ``measured.json``, all or nothing; they replace older ones of their precision.

    Raises:
        BundleError: The file cannot be written.
    """
    kept = read_measured(bundle)
    merged = dataclasses.replace(
        kept, accuracy=_replaced(kept.accuracy, accuracy), speeds=_replaced(kept.speeds, speeds)
    )
    write_file(bundle.path / _FILE, json.dumps(encode(merged), indent=1) + "\n", fail=BundleError)


def describe_speed(precision: Precision, against: Precision, ratio: float, low: float, high: float) -> str:
    """Return what a measured ratio shows: faster, slower, or neither, with its 99 % interval."""
    shown = "is faster" if low > 1 else "is slower" if high < 1 else "is not shown to be faster"
    return f"{precision} {shown} than {against}: {ratio:.2f} times as fast (99 % interval {low:.2f} to {high:.2f})"


_Result = TypeVar("_Result", Accuracy, Speed)


def _current(bundle: Bundle, results: Sequence[_Result]) -> tuple[_Result, ...]:
    manifest = bundle.manifest
    return tuple(
        one
        for one in results
        if one.precision in manifest.graphs and one.graphs_sha256 == manifest.graphs_sha256(one.precision)
    )


def _replaced(old: Sequence[_Result], new: Sequence[_Result]) -> tuple[_Result, ...]:
    again = {one.precision for one in new}
    return tuple([one for one in old if one.precision not in again] + list(new))


def _read(bundle: Bundle) -> Measured:
    file = bundle.path / _FILE
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        found = decode(Measured, document, "")
    except FileNotFoundError:
        return Measured()
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", path=file) from error
    except InvalidDocument as error:
        raise BundleError(f"{error}; delete it and measure again", path=file, field=error.field or None) from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"is no JSON or is cut short: {error}; delete it and measure again", path=file) from error
    if found.schema > _SCHEMA:
        raise BundleError(f"this vdmrt reads schema {_SCHEMA}, found {found.schema}; install a newer vdmrt", path=file)
    return found
