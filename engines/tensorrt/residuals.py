"""Additions to the residual stream in two dimensions, so that TensorRT makes them in the kernels of the products.

Its compiler fuses Cast, Mul and Add into the kernel of the product before them only if no Reshape is between, and a
norm after them takes them over unless a Reshape is between. Both hold once the stream is two-dimensional wherever it is
added to: a residual addition then reads and writes the stream while the product computes, instead of in a pass of its
own.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["flatten_residuals"]


def flatten_residuals(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> int:
    """Make each addition of a projection to a tensor of its shape in two dimensions, in place.

    Args:
        model: A graph whose functions are still calls.
        shapes: Shape of every tensor.

    Returns:
        The number of additions that now follow their product without a Reshape between.
    """
    return _Flattening(model.graph, shapes).run()


class _Flattening:
    """One pass over a graph."""

    def __init__(self, graph: onnx.GraphProto, shapes: Mapping[str, Sequence[int]]) -> None:
        self.graph = graph
        self.shapes = shapes
        self.makers = {name: node for node in graph.node for name in node.output}
        read = [name for node in graph.node for name in node.input] + [value.name for value in graph.output]
        self.readers = collections.Counter(read)
        self.nodes: list[onnx.NodeProto] = []
        self.rows: dict[str, str] = {}  # the tensors' names in two dimensions

    def run(self) -> int:
        """Replace the graph's nodes; return the number of moved additions."""
        replaced: set[str] = set()
        moved = 0
        for node in self.graph.node:
            chain = self._find_chain(node)
            if chain and self._keeps_order(chain[-1].input[0]):
                replaced |= {one.output[0] for one in chain}
                self._move(chain)
                moved += 1
            if chain:
                self._add(node, chain)
            else:
                self.nodes.append(node)
        known = [value for value in self.graph.value_info if value.name not in replaced]
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(node for node in self.nodes if node.output[0] not in replaced)
        self.graph.value_info.extend(known)
        return moved

    def _find_chain(self, add: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the Mul, the Cast and the Reshape between a product and an addition, the last first; or none."""
        if add.op_type != "Add" or self.shapes[add.input[0]] != self.shapes[add.input[1]]:
            return []
        for branch in reversed(add.input):
            chain = list(self._follow(branch))
            if chain and chain[-1].op_type == "Reshape" and self._made_by(chain[-1].input[0], "Gemm"):
                same_width = self.shapes[chain[-1].input[0]][-1] == self.shapes[branch][-1]
                return chain if same_width else []
        return []

    def _follow(self, name: str) -> Iterator[onnx.NodeProto]:
        for operator in ("Mul", "Cast", "Reshape"):
            node = self._made_by(name, operator)
            if node is None or self.readers[name] != 1:
                continue
            if operator == "Mul" and not self._is_row(node.input[0]):
                return  # a number, or a gate for each row of requests
            yield node
            name = node.input[1 if operator == "Mul" else 0]

    def _is_row(self, name: str) -> bool:
        return bool(self.shapes[name]) and prod(self.shapes[name][:-1]) == 1

    def _made_by(self, name: str, operator: str) -> onnx.NodeProto | None:
        node = self.makers.get(name)
        return node if node is not None and node.op_type == operator else None

    def _keeps_order(self, product: str) -> bool:
        """Whether a product's rows are in the stream's order.

        TensorRT writes the result of an attention over several batch entries with the tokens in front of them, and
        permutes the rows when it adds them.
        """
        reshape = self._made_by(self.makers[product].input[0], "Reshape")
        attention = self._made_by(reshape.input[0], "Attention") if reshape is not None else None
        return attention is None or self.shapes[attention.output[0]][0] == 1

    def _move(self, chain: list[onnx.NodeProto]) -> None:
        """Append the nodes between a product and an addition in two dimensions."""
        import onnx

        name = chain[-1].input[0]
        for node in reversed(chain[:-1]):
            operands = [self._in_rows(node.input[0]), name] if node.op_type == "Mul" else [name]
            name = _rows_name(node.output[0])
            made = onnx.NodeProto()
            made.CopyFrom(node)
            del made.input[:], made.output[:]
            made.input.extend(operands)
            made.output.append(name)
            self.nodes.append(made)
        self.rows[chain[0].output[0]] = name

    def _add(self, add: onnx.NodeProto, chain: list[onnx.NodeProto]) -> None:
        """Append an addition in two dimensions, and the Reshape back."""
        import onnx

        name = add.output[0]
        total = _rows_name(name)
        operands = [self._in_rows(one) for one in add.input]
        self.rows[name] = total
        self.nodes += [
            onnx.helper.make_node("Add", operands, [total], name=add.name),
            onnx.helper.make_node("Reshape", [total, chain[-1].input[1]], [name], name=name),
        ]

    def _in_rows(self, name: str) -> str:
        """Return the name of a tensor in two dimensions; append its Reshape unless there is one."""
        import onnx

        if name not in self.rows:
            self.rows[name] = _rows_name(name)
            width = self.shapes[name][-1]
            shape = f"rows_of_{width}"
            if all(tensor.name != shape for tensor in self.graph.initializer):
                self.graph.initializer.append(onnx.helper.make_tensor(shape, onnx.TensorProto.INT64, [2], [-1, width]))
            self.nodes.append(onnx.helper.make_node("Reshape", [name, shape], [self.rows[name]], name=self.rows[name]))
        return self.rows[name]


def _rows_name(name: str) -> str:
    return f"{name}/rows"
