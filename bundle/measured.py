"""Measured accuracy and speed of a bundle's graphs, in ``measured.json``.

The file is not hashed, since each new measurement changes it. A result is valid for the graphs whose hash it holds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BundleError
from .precision import Precision
from .quantities import format_count
from .storage.decoding import InvalidDocument, decode, encode
from .storage.files import explained_writing, write_file
from .storage.locking import locked

if TYPE_CHECKING:
    from .folder import Bundle

__all__ = ["Accuracy", "Measured", "Speed", "describe_speed", "read_measured", "record_measured"]

_FILE = "measured.json"
_SCHEMA = 1


@dataclass(frozen=True)
class Accuracy:
    """The result of ``vdmrt verify`` for a precision.

    Attributes:
        precision: The precision that was measured.
        against: The precision that it was compared with.
        chunks: Autoregressive steps.
        seeds: Number of rollouts.
        passed: Whether every gate was met.
        figures: The figures by name: "free-running psnr", in dB, and so on.
        graphs_sha256: Hash of the graphs that were measured.
        backend: The backend that ran them, in one line; "" where that was not recorded.
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
        """Return the result in one line."""
        figures = ", ".join(f"{name} {value:.3g}" for name, value in self.figures.items())
        verdict = "every gate held" if self.passed else "A GATE WAS MISSED"
        ran = f", run by {self.backend}" if self.backend else ""
        over = format_count(self.chunks, "chunk")
        return f"{self.precision} against {self.against} over {over}{ran}: {figures}; {verdict}"


@dataclass(frozen=True)
class Speed:
    """Speed of a quantized precision relative to a floating point one: alternating denoising steps at a full cache.

    Attributes:
        precision: The precision that was measured.
        against: The precision that it was compared with.
        backend: The backend that ran both, in one line.
        ratio: Median of the time of ``against`` over its own; above 1 it is faster.
        low: Lower end of the 99 % interval of that median.
        high: Upper end.
        pairs: Pairs of neighboring runs.
        accepted: Whether it was requested regardless of its speed.
        graphs_sha256: Hash of the graphs that were measured.
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
        """Return the result in one line."""
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
    """Return the results for the bundle's current graphs; results of other graphs are left out.

    Raises:
        BundleError: The file is damaged or has a newer schema.
    """
    found = _read(bundle)
    return Measured(_current(bundle, found.accuracy), _current(bundle, found.speeds))


def record_measured(bundle: Bundle, *, accuracy: Sequence[Accuracy] = (), speeds: Sequence[Speed] = ()) -> None:
    """Add results to ``measured.json``, atomically; they replace older results of the same precision.

    Raises:
        BundleError: The file is damaged, has a newer schema, or cannot be written.
    """
    file = bundle.path / _FILE
    # Otherwise the results of another process, written between reading and writing, would be lost.
    with explained_writing(file, fail=BundleError), locked(file.with_name(f".{_FILE}.lock")):
        kept = read_measured(bundle)
        merged = dataclasses.replace(
            kept, accuracy=_replaced(kept.accuracy, accuracy), speeds=_replaced(kept.speeds, speeds)
        )
        write_file(file, json.dumps(encode(merged), indent=1) + "\n", fail=BundleError)


def describe_speed(precision: Precision, against: Precision, ratio: float, low: float, high: float) -> str:
    """Return the conclusion from a measured ratio (faster, slower, or neither), with its 99 % interval."""
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
        _check_schema(document, file)
        return decode(Measured, document, "")
    except FileNotFoundError:
        return Measured()
    except OSError as error:
        raise BundleError(f"cannot be read: {error.strerror}", path=file) from error
    except InvalidDocument as error:
        raise BundleError(f"{error}; delete it and measure again", path=file, field=error.field or None) from error
    except (ValueError, RecursionError) as error:
        sentence = f"is not valid JSON or is truncated: {error}; delete it and measure again"
        raise BundleError(sentence, path=file) from error


def _check_schema(document: Any, file: Path) -> None:
    """Check the schema before anything else: a newer one may have other names."""
    found = document.get("schema") if isinstance(document, dict) else None
    if isinstance(found, int) and found > _SCHEMA:
        raise BundleError(f"this vdmrt reads schema {_SCHEMA}, found {found}; install a newer vdmrt", path=file)
