"""Forms of a graph's functions for TensorRT: standard operators that its compiler fuses into one kernel.

Its compiler fuses MatMul, Softmax and MatMul over one tensor of keys, and always copies cached keys to align them. The
exported form of the attention over the cache, two products of each operand under one Softmax, takes 18 kernels instead
of 5, and moves 253 MB instead of 175; a Split of the columns of q, k and v takes four kernels more in each block than a
Transpose into three parts (XL/2 in FP16, TensorRT for RTX 1.7.1, 2026-11-28).
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from ...bundle import FUNCTION_DOMAIN
from ...errors import BuildError
from ..forms import AS_EXPORTED

if TYPE_CHECKING:
    import onnx

    from ..forms import Forms

__all__ = ["ONE_KEY_TENSOR", "THREE_VIEWS", "write_out"]

ONE_KEY_TENSOR = "one Softmax over concatenated keys"
THREE_VIEWS = "one Transpose into three parts"
_KEPT = ("Attention", "ContextAttention", "MaskedAttention", "ModulatedNorm")
_BODIES = {
    "CachedAttention": """(query, past_key, past_value, key, value, scale, bias, lengths) => (attended) {
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
    }""",
    "SplitProjection": """(packed, sizes) => (query, key, value) {
        shape = Constant <value_ints = [0, 3, -1]> ()
        thirds = Reshape (packed, shape)
        turned = Transpose <perm = [1, 0, 2]> (thirds)
        ones = Constant <value_ints = [1, 1, 1]> ()
        query_third, key_third, value_third = Split <axis = 0> (turned, ones)
        first = Constant <value_ints = [0]> ()
        query = Squeeze (query_third, first)
        key = Squeeze (key_third, first)
        value = Squeeze (value_third, first)
    }""",
}
_FORMS = {"CachedAttention": ONE_KEY_TENSOR, "SplitProjection": THREE_VIEWS} | dict.fromkeys(_KEPT, AS_EXPORTED)


def write_out(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Forms]:
    """Return a model with each call replaced by TensorRT's form, and the number of calls by form.

    Raises:
        BuildError: A function has no form here.
    """
    import onnx.inliner

    calls = collections.Counter(node.op_type for node in model.graph.node if node.domain == FUNCTION_DOMAIN)
    for name in calls:
        if name not in _FORMS:
            raise BuildError(f"TensorRT has no form of '{FUNCTION_DOMAIN}.{name}', only of {', '.join(sorted(_FORMS))}")
    for function in model.functions:
        if function.domain == FUNCTION_DOMAIN and function.name in _BODIES:
            function.CopyFrom(_parse(function))
    forms = {name: {_FORMS[name]: count} for name, count in sorted(calls.items())}
    return onnx.inliner.inline_local_functions(model), forms


def _parse(exported: onnx.FunctionProto) -> onnx.FunctionProto:
    """Return a function with the exported one's name and opset, and TensorRT's body."""
    import onnx

    (opset,) = (one.version for one in exported.opset_import if one.domain == "")
    header = f'<domain: "{FUNCTION_DOMAIN}", opset_import: ["" : {opset}]> {exported.name} '
    function = onnx.parser.parse_function(header + _BODIES[exported.name])
    for node in function.node:
        node.name = node.output[0]
    return function
