"""Mask propagation as nodes of an ONNX graph: the votes of the nearest cells of the context, within a window.

The same as `dense_ctx_probes.local_knn`. Tiles of cells follow one another in a Scan, so that memory is that of one
tile's similarities; the tables of `dense_ctx_runtime.windows` say which cells are in a tile and near it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
_Shape = tuple[str | int, ...]
_TINY = float(np.finfo(np.float32).tiny)


def attach_votes(
    model: onnx.ModelProto, settings: Mapping[str, Any], dim: int, tables: Mapping[str, Any] | None
) -> None:
    """Add the propagation to a graph whose one output is the frame's keys of unit length, [1, dim, h, w].

    New inputs: context_keys [T, h, w, dim] and context_labels [T, h, w, K]; outputs: keys [h, w, dim], labels
    [h, w, K], cosines [h, w] (mean of those that vote; -inf where nobody does).

    Args:
        settings: `Facts.track`. tables: `dense_ctx_runtime.windows.tiles` of the one grid; None: they are inputs.
    """
    graph = model.graph
    nodes = _Nodes("votes")
    keys = nodes.add("Transpose", graph.output[0].name, perm=[2, 3, 1, 0])
    nodes.add("Squeeze", keys, nodes.constant([3]), output="keys")
    query = nodes.add("Reshape", "keys", nodes.constant([-1, dim]))
    flat_keys = nodes.add("Reshape", "context_keys", nodes.constant([0, -1, dim]))
    classes = nodes.add("Shape", "context_labels", start=3, end=4)
    flat_labels = nodes.add("Reshape", "context_labels", nodes.join([0, -1], classes))
    width = nodes.add("Shape", "context_keys", start=2, end=3)
    body = _tile(settings, dim, query, flat_keys, flat_labels, width, classes)
    votes, means = nodes.many("Scan", 2, "cells", "near", body=body, num_scan_inputs=2)
    grid = nodes.add("Shape", "context_keys", start=1, end=3)
    cells = nodes.add("Gather", nodes.add("Reshape", votes, nodes.join([-1], classes)), "owner", axis=0)
    nodes.add("Reshape", cells, nodes.join([], grid, classes), output="labels")
    means = nodes.add("Gather", nodes.add("Reshape", means, nodes.constant([-1])), "owner", axis=0)
    nodes.add("Reshape", means, grid, output="cosines")

    graph.node.extend(nodes.nodes)
    graph.initializer.extend(nodes.constants)
    context: list[tuple[str, _Shape]] = [
        ("context_keys", ("t", "h", "w", dim)),
        ("context_labels", ("t", "h", "w", "k")),
    ]
    indices: list[tuple[str, _Shape]] = [("cells", ("tiles", "q")), ("near", ("tiles", "m")), ("owner", ("n",))]
    results: list[tuple[str, _Shape]] = [
        ("keys", ("h", "w", dim)),
        ("labels", ("h", "w", "k")),
        ("cosines", ("h", "w")),
    ]
    graph.input.extend(_value(name, FLOAT, *shape) for name, shape in context)
    if tables is None:
        graph.input.extend(_value(name, INT, *shape) for name, shape in indices)
    else:
        graph.initializer.extend(numpy_helper.from_array(tables[name], name) for name, _ in indices)
    del graph.output[:]
    graph.output.extend(_value(name, FLOAT, *shape) for name, shape in results)


def _tile(
    settings: Mapping[str, Any], dim: int, query: str, keys: str, labels: str, width: str, classes: str
) -> onnx.GraphProto:
    """Votes [q, K] and mean cosines [q] of a tile's cells [q] from those near it [m], given as places on the grid."""
    nodes = _Nodes("tile")
    zero, low, tiny = (nodes.constant(value) for value in (0.0, -np.inf, _TINY))
    rows, columns = nodes.constant([1]), nodes.constant([0])  # axes
    near_keys = nodes.add("Reshape", nodes.add("Gather", keys, "tile_near", axis=1), nodes.constant([-1, dim]))
    scores = nodes.add("Gemm", nodes.add("Gather", query, "tile_cells", axis=0), near_keys, transB=1)
    # outside the window: by rows or by columns
    radius = nodes.constant(settings["size_mask_neighborhood"] or 1 << 40)
    far = [
        nodes.add(
            "Greater",
            nodes.add("Abs", nodes.add("Sub", nodes.add("Unsqueeze", nodes.add(op, "tile_cells", width), rows),
                                       nodes.add("Unsqueeze", nodes.add(op, "tile_near", width), columns))),
            radius,
        )
        for op in ("Div", "Mod")
    ]  # fmt: skip
    outside = nodes.add("Unsqueeze", nodes.add("Where", nodes.add("Or", *far), low, zero), rows)
    by_frame = nodes.join([0], nodes.add("Shape", keys, start=0, end=1), [-1])
    scores = nodes.add("Add", nodes.add("Reshape", scores, by_frame), outside)
    scores = nodes.add("Reshape", scores, nodes.constant([0, -1]))
    # the k best, and all that tie with the last of them (exact repeats in the picture)
    count = nodes.add("Min", nodes.constant([settings["topk"]]), nodes.add("Shape", scores, start=1, end=2))
    best, _ = nodes.many("TopK", 2, scores, count)
    voters = nodes.add("GreaterOrEqual", scores, nodes.add("Gather", best, nodes.constant([-1]), axis=1))
    weights = nodes.add("Exp", nodes.add("Div", scores, nodes.constant(float(settings["temperature"]))))
    weights = nodes.add("Where", voters, weights, zero)
    # the least positive number: where no cell is near, nobody votes and the sum is 0
    total = nodes.add("Max", nodes.add("ReduceSum", weights, rows), tiny)
    values = nodes.add("Reshape", nodes.add("Gather", labels, "tile_near", axis=1), nodes.join([-1], classes))
    nodes.add("Div", nodes.add("MatMul", weights, values), total, output="tile_votes")
    finite = nodes.add("Greater", best, low)
    number = nodes.add("ReduceSum", nodes.add("Cast", finite, to=FLOAT), rows, keepdims=0)
    summed = nodes.add("ReduceSum", nodes.add("Where", finite, best, zero), rows, keepdims=0)
    # less the least positive number, so that the quotient is -inf where there is no vote
    nodes.add("Div", nodes.add("Sub", summed, tiny), number, output="tile_means")
    return helper.make_graph(
        nodes.nodes, "tile", [_value("tile_cells", INT, "q"), _value("tile_near", INT, "m")],
        [_value("tile_votes", FLOAT, "q", "k"), _value("tile_means", FLOAT, "q")], initializer=nodes.constants,
    )  # fmt: skip


def _value(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


class _Nodes:
    """Nodes in their order, with names of their own, and constants."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node with one output; returns the output's name."""
        output = output or f"{self.prefix}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{self.prefix}_{op}_{output}", **attributes))
        return output

    def many(self, op: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node with several outputs; returns their names."""
        outputs = [f"{self.prefix}_{len(self.nodes)}_{number}" for number in range(count)]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"{self.prefix}_{op}_{outputs[0]}", **attributes))
        return outputs

    def constant(self, value: Any) -> str:
        """Numbers: int64, or float32 if they are floats."""
        array = np.asarray(value, dtype=np.float32 if isinstance(value, float) else np.int64)
        name = f"{self.prefix}_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def join(self, *parts: str | list[int]) -> str:
        """A shape of numbers and of named shapes."""
        names = [part if isinstance(part, str) else self.constant(part) for part in parts if part != []]
        return self.add("Concat", *names, axis=0)
