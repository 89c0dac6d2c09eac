"""Precisions: names, order, and JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from vdmrt.bundle import FP16, FP16_MIXED, FP32, PRECISIONS, Precision, encode
from vdmrt.bundle.storage.decoding import InvalidDocument, decode

NAMES = [
    "fp32", "fp16", "fp16-mixed", "int8", "int8-fp16", "fp8",
    "fp32-kv8", "fp16-kv8", "int8-kv8", "int8-fp16-kv8", "fp8-kv8",
    "fp32-kvf8", "fp16-kvf8", "int8-kvf8", "int8-fp16-kvf8", "fp8-kvf8",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Document:
    """A document with a precision as value and as key, as in the manifests."""

    precision: Precision
    nbytes: dict[Precision, tuple[int, ...]]


def test_every_precision_has_the_name_that_it_has_in_files() -> None:
    assert list(map(str, PRECISIONS)) == NAMES


def test_a_name_is_read_back_as_the_same_precision() -> None:
    assert [Precision.parse(name) for name in NAMES] == list(PRECISIONS)
    assert Precision.parse(FP16) is FP16


def test_a_precision_has_linears_surrounding_type_and_cache() -> None:
    assert Precision.parse("int8-fp16-kvf8") == Precision("int8", "fp16", "fp8")
    assert (FP32, FP16, FP16_MIXED) == (
        Precision("fp32", "fp32"),
        Precision("fp16", "fp16"),
        Precision("mixed", "fp16"),
    )


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^precision must be one of fp32, fp16, .*, fp8-kvf8, got 'bf16'$"):
        Precision.parse("bf16")


def test_an_unsupported_combination_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no precision .*linears='fp8', around='fp32'.*; there are fp32, fp16, "):
        Precision("fp8", "fp32")


def test_floating_point_and_then_the_more_exact_precision_is_preferred() -> None:
    assert sorted(reversed(PRECISIONS)) == list(PRECISIONS)
    assert FP32 < FP16 < FP16_MIXED < Precision("int8", "fp32") < Precision("fp8", "fp16") < Precision.parse("fp32-kv8")


def test_exported_and_quantized_precisions_are_distinguished() -> None:
    assert [str(one) for one in PRECISIONS if one.is_exported] == ["fp32", "fp16"]
    assert [str(one) for one in PRECISIONS if not one.is_quantized] == ["fp32", "fp16", "fp16-mixed"]


def test_json_has_its_name_as_value_and_as_key() -> None:
    document = Document(FP16, {Precision("int8", "fp32"): (1, 2)})

    written = json.dumps(encode(document))

    assert json.loads(written) == {"precision": "fp16", "nbytes": {"int8": [1, 2]}}
    assert decode(Document, json.loads(written), "") == document


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"precision": "fp15", "nbytes": {}}, "precision"),
        ({"precision": "fp16", "nbytes": {"fp15": []}}, "nbytes.fp15"),
    ],
)
def test_an_unknown_name_in_json_is_refused_with_its_place(document: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidDocument, match="precision must be one of fp32, .*, got 'fp15'") as caught:
        decode(Document, document, "")
    assert caught.value.field == field
