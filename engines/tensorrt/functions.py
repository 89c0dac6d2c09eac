"""Forms of a graph's functions for TensorRT: standard operators that its compiler turns into few kernels.

Its compiler copies cached keys and values before a fused attention; a few queries for each cached key are faster as
sums of products, which read the cache in place. A Split of the columns of q, k and v takes more kernels than a
Transpose into three parts, and queries reach a fused attention without a copy where only heads are in front of tokens.
The gains of each form are in docs/benchmarks.md; benchmarks/kernels.py counts them.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...bundle import FUNCTION_DOMAIN
from ...errors import BuildError
from ..forms import AS_EXPORTED

if TYPE_CHECKING:
    import onnx

    from ..forms import Forms

__all__ = [
    "FORMS",
    "HEADS_FIRST",
    "ONE_KEY_TENSOR",
    "SUMS_OF_PRODUCTS",
    "THREE_VIEWS",
    "Form",
    "choose_forms",
    "find_shapes",
    "write_out",
]

HEADS_FIRST = "heads first in three dimensions"
ONE_KEY_TENSOR = "one Softmax over concatenated keys"
SUMS_OF_PRODUCTS = "sums of products over the cache in place"
THREE_VIEWS = "one Transpose into three parts"

# Beyond as many queries for each key, the arithmetic without tensor cores takes longer than copying keys and values.
_MOST_QUERIES = 16

Shape = Sequence[int]


@dataclass(frozen=True)
class Form:
    """A form of a function.

    Attributes:
        name: For people and records.
        body: Signature and nodes in ONNX's text; None keeps the exported body.
        fits: Whether the form suits a call, by the shape of its first operand.
    """

    name: str
    body: str | None = None
    fits: Callable[[Shape], bool] = lambda first: True


def _is_one_row(query: Shape) -> bool:
    return query[0] == 1


_KEPT = Form(AS_EXPORTED)
# In float32, so that neither scores nor sums overflow or lose digits in FP16.
_SUMS = """(query, past_key, past_value, key, value, scale, bias, lengths) => (attended) {
        behind_batch = Constant <value_ints = [1]> ()
        over_keys = Constant <value_ints = [3]> ()
        last = Constant <value_ints = [-1]> ()
        scaled_query = Mul (query, scale)
        wide_query = Cast <to = 1> (scaled_query)
        queries = Unsqueeze (wide_query, over_keys)
        own_key = Transpose <perm = [0, 2, 1, 3]> (key)
        joined_keys = Concat <axis = 2> (past_key, own_key)
        wide_keys = Cast <to = 1> (joined_keys)
        keys = Unsqueeze (wide_keys, behind_batch)
        products = Mul (queries, keys)
        scores = ReduceSum <keepdims = 0> (products, last)
        wide_bias = Cast <to = 1> (bias)
        turned_bias = Transpose <perm = [0, 2, 1, 3]> (wide_bias)
        biased_scores = Add (scores, turned_bias)
        wide_weights = Softmax <axis = -1> (biased_scores)
        weights = Unsqueeze (wide_weights, last)
        own_value = Transpose <perm = [0, 2, 1, 3]> (value)
        joined_values = Concat <axis = 2> (past_value, own_value)
        wide_values = Cast <to = 1> (joined_values)
        values = Unsqueeze (wide_values, behind_batch)
        parts = Mul (weights, values)
        wide_sums = ReduceSum <keepdims = 0> (parts, over_keys)
        attended = CastLike (wide_sums, query)
    }"""
_ONE_KEY_TENSOR = """(query, past_key, past_value, key, value, scale, bias, lengths) => (attended) {
        turned_query = Transpose <perm = [0, 2, 1, 3]> (query)
        scaled_query = Mul (turned_query, scale)
        own_key = Transpose <perm = [0, 2, 1, 3]> (key)
        keys = Concat <axis = 2> (past_key, own_key)
        turned_keys = Transpose <perm = [0, 1, 3, 2]> (keys)
        scores = MatMul (scaled_query, turned_keys)
        biased_scores = Add (scores, bias)
        weights = Softmax <axis = -1> (biased_scores)
        own_value = Transpose <perm = [0, 2, 1, 3]> (value)
        values = Concat <axis = 2> (past_value, own_value)
        mixed = MatMul (weights, values)
        attended = Transpose <perm = [0, 2, 1, 3]> (mixed)
    }"""
_CACHE_HEADS_FIRST = """(query, past_key, past_value, key, value, scale, bias, lengths) => (attended) {
        batch = Constant <value_ints = [0]> ()
        own_query = Squeeze (query, batch)
        turned_query = Transpose <perm = [1, 0, 2]> (own_query)
        scaled_query = Mul (turned_query, scale)
        past_keys = Squeeze (past_key, batch)
        chunk_keys = Squeeze (key, batch)
        own_keys = Transpose <perm = [1, 0, 2]> (chunk_keys)
        keys = Concat <axis = 1> (past_keys, own_keys)
        turned_keys = Transpose <perm = [0, 2, 1]> (keys)
        scores = MatMul (scaled_query, turned_keys)
        own_bias = Squeeze (bias, batch)
        biased_scores = Add (scores, own_bias)
        weights = Softmax <axis = -1> (biased_scores)
        past_values = Squeeze (past_value, batch)
        chunk_values = Squeeze (value, batch)
        own_values = Transpose <perm = [1, 0, 2]> (chunk_values)
        values = Concat <axis = 1> (past_values, own_values)
        mixed = MatMul (weights, values)
        turned = Transpose <perm = [1, 0, 2]> (mixed)
        attended = Unsqueeze (turned, batch)
    }"""
_HEADS_FIRST = """(query, key, value, scale) => (attended) {
        batch = Constant <value_ints = [0]> ()
        own_query = Squeeze (query, batch)
        turned_query = Transpose <perm = [1, 0, 2]> (own_query)
        scaled_query = Mul (turned_query, scale)
        own_key = Squeeze (key, batch)
        turned_key = Transpose <perm = [0, 2, 1]> (own_key)
        scores = MatMul (scaled_query, turned_key)
        weights = Softmax <axis = -1> (scores)
        own_value = Squeeze (value, batch)
        mixed = MatMul (weights, own_value)
        turned = Transpose <perm = [1, 0, 2]> (mixed)
        attended = Unsqueeze (turned, batch)
    }"""
_THREE_VIEWS = """(packed, sizes) => (query, key, value) {
        shape = Constant <value_ints = [0, 3, -1]> ()
        thirds = Reshape (packed, shape)
        turned = Transpose <perm = [1, 0, 2]> (thirds)
        ones = Constant <value_ints = [1, 1, 1]> ()
        query_third, key_third, value_third = Split <axis = 0> (turned, ones)
        first = Constant <value_ints = [0]> ()
        query = Squeeze (query_third, first)
        key = Squeeze (key_third, first)
        value = Squeeze (value_third, first)
    }"""
# In order of preference; the last of a function suits every call and every TensorRT, the others TensorRT for RTX.
FORMS: Mapping[str, Sequence[Form]] = {
    "Attention": [_KEPT],
    "CachedAttention": [
        Form(SUMS_OF_PRODUCTS, _SUMS, lambda query: query[1] <= _MOST_QUERIES),
        Form(HEADS_FIRST, _CACHE_HEADS_FIRST, _is_one_row),
        Form(ONE_KEY_TENSOR, _ONE_KEY_TENSOR),
    ],
    "ContextAttention": [Form(HEADS_FIRST, _HEADS_FIRST, _is_one_row), _KEPT],
    "MaskedAttention": [_KEPT],
    "ModulatedNorm": [_KEPT],
    "SplitProjection": [Form(THREE_VIEWS, _THREE_VIEWS)],
}


def choose_forms(model: onnx.ModelProto, *, last_only: bool = False) -> dict[str, Form]:
    """Return the first form of each function of a graph that suits all its calls.

    Args:
        model: A graph of a bundle, with static shapes.
        last_only: Choose the forms that suit every TensorRT; the others were chosen by TensorRT for RTX's kernels.

    Raises:
        BuildError: A function has no form here.
    """
    calls = _calls(model)
    for name in calls:
        if name not in FORMS:
            raise BuildError(f"TensorRT has no form of '{FUNCTION_DOMAIN}.{name}', only of {', '.join(sorted(FORMS))}")
    if last_only:
        return {name: FORMS[name][-1] for name in calls}
    shapes = find_shapes(model)

    def suits(form: Form, nodes: Sequence[onnx.NodeProto]) -> bool:
        return all(form.fits(shapes[node.input[0]]) for node in nodes)

    return {name: next(form for form in FORMS[name] if suits(form, nodes)) for name, nodes in calls.items()}


def write_out(model: onnx.ModelProto, chosen: Mapping[str, Form]) -> tuple[onnx.ModelProto, Forms]:
    """Return a model with each call replaced by a form, and the number of calls by form.

    Args:
        model: A graph of a bundle; its functions' bodies are changed.
        chosen: The form of each function that it calls.
    """
    import onnx.inliner

    for function in model.functions:
        form = chosen.get(function.name) if function.domain == FUNCTION_DOMAIN else None
        if form is not None and form.body is not None:
            function.CopyFrom(_parse(function, form.body))
    calls = _calls(model)
    forms = {name: {chosen[name].name: len(nodes)} for name, nodes in sorted(calls.items())}
    return onnx.inliner.inline_local_functions(model), forms


def find_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the shape of every tensor of a model, by name."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    return shapes


def _calls(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    calls = collections.defaultdict(list)
    for node in model.graph.node:
        if node.domain == FUNCTION_DOMAIN:
            calls[node.op_type].append(node)
    return dict(calls)


def _parse(exported: onnx.FunctionProto, body: str) -> onnx.FunctionProto:
    """Return a function with the exported one's name and opset, and another body."""
    import onnx

    (opset,) = (one.version for one in exported.opset_import if one.domain == "")
    header = f'<domain: "{FUNCTION_DOMAIN}", opset_import: ["" : {opset}]> {exported.name} '
    function = onnx.parser.parse_function(header + body)
    for node in function.node:
        node.name = node.output[0]
    return function
