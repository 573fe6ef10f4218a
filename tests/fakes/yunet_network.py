"""A network with YuNet's input and outputs that finds the one bright thing on a dark ground.

The real YuNet file is in no package. This one lets OpenCV's own `FaceDetectorYN` run: its padding,
its decoding of the twelve outputs and its suppression, on pictures whose answer is known. It says
nothing about how well YuNet finds faces.
"""

from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper, save

WIDTHS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
STRIDES = (8, 16, 32)


class _Graph:
    """Nodes and constants in the making; each method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, object] = {}

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: object) -> str:
        out = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def const(self, value: object, dtype: type = np.float32) -> str:
        name = f"const_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(np.array(value, dtype), name)
        return name


def _extent(graph: _Graph, bright: str, axis: int) -> tuple[str, str, str]:
    """Score (1 where anything is bright), centre and size along an axis, each (1, 1, 1)."""
    line_axis, other_axes = graph.const([2], np.int64), graph.const([1, 5 - axis], np.int64)
    profile = graph.op("ReduceMax", bright, other_axes)
    line = graph.op("Reshape", profile, graph.const([1, 1, -1], np.int64))
    size = graph.op("Add", graph.op("ReduceSum", line, line_axis), graph.const([1e-3]))
    ones = graph.op("Add", graph.op("Mul", line, graph.const([0])), graph.const([1]))
    place = graph.op("CumSum", ones, graph.const(2, np.int64))
    moment = graph.op("ReduceSum", graph.op("Mul", place, line), line_axis)
    centre = graph.op("Sub", graph.op("Div", moment, size), graph.const([0.5]))
    return graph.op("ReduceMax", line, line_axis), centre, size


def _answer(graph: _Graph) -> dict[str, str]:
    """What the first cell of stride 32 says: score, box, and landmarks 1 px apart diagonally."""
    above = graph.op("Sub", "input", graph.const([128]))
    bright = graph.op("Clip", above, graph.const(0), graph.const(1))
    unit = graph.const([1 / 32])
    score, x, width = _extent(graph, bright, 3)
    _, y, height = _extent(graph, bright, 2)
    x, y = graph.op("Mul", x, unit), graph.op("Mul", y, unit)
    width = graph.op("Log", graph.op("Mul", width, unit))
    height = graph.op("Log", graph.op("Mul", height, unit))
    points = [
        graph.op("Add", side, graph.const([step / 32])) for step in range(5) for side in (x, y)
    ]
    return {
        "cls": score,
        "obj": score,
        "bbox": graph.op("Concat", x, y, width, height, axis=2),
        "kps": graph.op("Concat", *points, axis=2),
    }


def write_yunet_network(path: Path) -> Path:
    """Write the network to `path` as ONNX and return the path."""
    graph, outputs = _Graph(), []
    answer = _answer(graph)
    for stride in STRIDES:
        pooled = graph.op("AveragePool", "input", kernel_shape=[stride] * 2, strides=[stride] * 2)
        cell = graph.op("ReduceMax", pooled, graph.const([1], np.int64))
        cells = graph.op("Reshape", cell, graph.const([1, -1, 1], np.int64))
        nothing = graph.op("Mul", cells, graph.const([0]))
        count = graph.op(
            "CumSum", graph.op("Add", nothing, graph.const([1])), graph.const(1, np.int64)
        )
        first = graph.op(
            "Clip", graph.op("Sub", graph.const([2]), count), graph.const(0), graph.const(1)
        )
        for kind, width in WIDTHS.items():
            name = f"{kind}_{stride}"
            if stride == STRIDES[-1]:
                graph.op("Mul", first, answer[kind], out=name)
            else:
                graph.op("Concat", *[nothing] * width, out=name, axis=2)
            shape = [1, f"n{stride}", width]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, "h", "w"])
    made = helper.make_graph(
        graph.nodes, "bright", [picture], outputs, list(graph.constants.values())
    )
    save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path
