"""CenterFace as a torch module, from the file that OpenVINO reads.

OpenVINO is installed anyway and reads ONNX; the package `onnx` is not needed to serve.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino.passes import ConstantFolding, Manager
from torch import Tensor, fx, nn

from stream_server.detect.centerface import MAX_CANDIDATES, read_model
from stream_server.errors import ModelError

VALUES = 14
"""Of a cell besides its score: scale (2), offset (2), landmarks (10)."""


class Candidates(nn.Module):
    """uint8 BGR pictures (n, h, w, 3) in, the best cells of each out: (n, 2 + 14, cells), float32.

    For each cell its score, its index in the map (h / 4, w / 4) row by row, and its `VALUES`; the
    best score first. A whole map would be more bytes than the picture was.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, pictures: Tensor) -> Tensor:
        # A permuted NHWC tensor is channels-last already.
        logits, *maps = self.network(pictures.permute(0, 3, 1, 2).to(self.dtype))
        # Near 1 the half-precision numbers are too far apart to tell which face is surer.
        scores = logits.float().sigmoid().flatten(1)
        best, cells = scores.topk(min(MAX_CANDIDATES, scores.shape[1]))
        values = torch.cat(maps, 1).flatten(2).float()
        values = values.gather(2, cells[:, None].expand(-1, VALUES, -1))
        return torch.cat([best[:, None], cells[:, None].float(), values], 1)


def candidates(device: torch.device, dtype: torch.dtype) -> Candidates:
    """CenterFace on a device. Raises ModelError when its file is missing or another network."""
    network = to_torch(read_model(ov.Core()))
    network = network.to(device, dtype).to(memory_format=torch.channels_last)
    return Candidates(network, dtype).eval()


def to_torch(model: ov.Model) -> fx.GraphModule:
    """CenterFace's graph in torch: (n, 3, h, w) to logits of the heatmap, scale, offset, landmarks.

    The sigmoid behind the heatmap is left to the caller. Raises ModelError for a node that
    CenterFace does not have.
    """
    model = model.clone()
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    builder = _Builder()
    for node in model.get_ordered_ops():
        builder.add(node)
    outputs = [builder.made[result.get_friendly_name()] for result in model.results]
    builder.graph.output(tuple(outputs))
    return fx.GraphModule(builder.modules, builder.graph)


class _Builder:
    """Torch's graph, node by node in their order."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.modules = nn.ModuleDict()
        self.made: dict[str, fx.Node] = {}
        self._constants: dict[str, Tensor] = {}
        self._makers: dict[str, Callable[[ov.Node, list[str]], fx.Node | None]] = {
            "Constant": self._constant,
            "Parameter": lambda _, __: self.graph.placeholder("pictures"),
            "Result": self._same,
            "Sigmoid": self._same,
            "Relu": self._relu,
            "Add": self._add,
            "Convolution": self._convolution,
            "GroupConvolution": self._convolution,
            "ConvolutionBackpropData": self._convolution,
            "BatchNormInference": self._normalisation,
        }

    def add(self, node: ov.Node) -> None:
        """The next node; all its inputs have been added."""
        kind = node.get_type_name()
        if kind not in self._makers:
            raise ModelError(f"centerface.onnx holds a {kind}: it is not CenterFace")
        inputs = [value.get_node().get_friendly_name() for value in node.input_values()]
        made = self._makers[kind](node, inputs)
        if made is not None:
            self.made[node.get_friendly_name()] = made

    def _constant(self, node: ov.Node, _: list[str]) -> None:
        self._constants[node.get_friendly_name()] = torch.from_numpy(np.array(node.data))

    def _same(self, _: ov.Node, inputs: list[str]) -> fx.Node:
        return self.made[inputs[0]]

    def _relu(self, _: ov.Node, inputs: list[str]) -> fx.Node:
        return self.graph.call_function(torch.relu, (self.made[inputs[0]],))

    def _add(self, _: ov.Node, inputs: list[str]) -> fx.Node:
        first, second = inputs
        if second not in self._constants:
            return self.graph.call_function(torch.add, (self.made[first], self.made[second]))
        convolution = self.modules[str(self.made[first].target)]
        convolution.bias = nn.Parameter(self._constants[second].flatten())
        return self.made[first]

    def _convolution(self, node: ov.Node, inputs: list[str]) -> fx.Node:
        of = node.get_attributes()
        if of["dilations"] != [1, 1] or of["pads_begin"] != of["pads_end"]:
            raise ModelError("centerface.onnx has a convolution that CenterFace does not have")
        weight = self._constants[inputs[1]]
        groups = weight.shape[0] if weight.ndim == 5 else 1
        weight = weight.flatten(0, 1) if weight.ndim == 5 else weight
        outputs, each = weight.shape[:2]
        options: dict[str, Any] = {"stride": of["strides"], "padding": of["pads_begin"]}
        size = weight.shape[2], weight.shape[3]
        module: nn.Module
        if node.get_type_name() == "ConvolutionBackpropData":
            module = nn.ConvTranspose2d(outputs, each, size, bias=False, **options)
        else:
            module = nn.Conv2d(each * groups, outputs, size, groups=groups, bias=False, **options)
        module.weight = nn.Parameter(weight)
        return self._call(node, module, inputs[0])

    def _normalisation(self, node: ov.Node, inputs: list[str]) -> fx.Node:
        data, *constants = inputs
        weight, bias, mean, variance = (self._constants[name] for name in constants)
        module = nn.BatchNorm2d(len(weight), eps=node.get_attributes()["epsilon"])
        module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
        module.running_mean, module.running_var = mean, variance
        return self._call(node, module, data)

    def _call(self, node: ov.Node, module: nn.Module, data: str) -> fx.Node:
        name = f"n{len(self.modules)}"
        self.modules[name] = module
        return self.graph.call_module(name, (self.made[data],))
