"""Gradients of all weights of whole networks, beside those that PyTorch computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.gradients.differentiate import differentiate
from onnxprune.model.model import load
from tests.support.oracle import session

NETS = [
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
]
CLASSES, SIZE = 5, 64


def smooth(torch: Any, net: Any) -> None:
    """Puts smooth functions in the place of those with kinks, where rounding decides between two slopes."""
    smoother = {torch.nn.ReLU: torch.nn.SiLU, torch.nn.ReLU6: torch.nn.SiLU, torch.nn.Hardswish: torch.nn.SiLU}
    smoother[torch.nn.Hardsigmoid] = torch.nn.Sigmoid
    for name, child in net.named_children():
        smooth(torch, child)
        if type(child) in smoother:
            setattr(net, name, smoother[type(child)]())


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_gradients_are_those_of_pytorch(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
    pytest.importorskip("onnxscript", reason="onnxscript, which PyTorch exports with, is not installed")
    torch.manual_seed(0)
    net = getattr(models, name)(num_classes=CLASSES).eval()
    smooth(torch, net)
    for module in net.modules():  # statistics as those of a trained network, which its gradients do not vanish in
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    x = torch.randn(4, 3, SIZE, SIZE)
    with torch.no_grad():
        net.train()(x)
    net.eval()
    made = net(x)
    seed = torch.randn_like(made)
    made.backward(seed)
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, (x,), path, dynamo=True, optimize=False, external_data=False, verbose=False)
    model = load(path)
    stored = {t.name: model.array(t) for t in model.proto.graph.initializer}
    wanted = {n: p.grad.numpy() for n, p in net.named_parameters() if n in stored}
    assert len(wanted) == len(list(net.parameters()))
    (output,) = (value.name for value in model.proto.graph.output)
    found = differentiate(model, [output], list(wanted))
    assert not found.reasons
    (given,) = (value.name for value in model.proto.graph.input)
    feeds = {given: x.numpy(), found.seeds[output]: seed.numpy(), **{n: stored[n] for n in wanted}}
    got = session(found.model.proto).run([found.gradients[n] for n in wanted], feeds)
    largest = max(np.linalg.norm(array) for array in wanted.values())
    for weight, array in zip(wanted, got, strict=True):
        error = np.linalg.norm(array - wanted[weight])
        assert error <= 1e-4 * np.linalg.norm(wanted[weight]) + 1e-6 * largest, weight
