"""Checkpoints of PyTorch and Keras, where these are installed: what is loaded computes what the pruned model does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.errors import InputError
from onnxprune.model.model import load
from onnxprune.runtime.session import local_session
from tests.planning.checkpoints.test_slice import LEFT, MODEL, PRUNED, WEIGHTS

X = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)


def torch_net(torch: Any, width: int, later: int) -> Any:
    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, width, 3, padding=1, bias=False)
            self.bn = torch.nn.BatchNorm2d(width)
            self.next = torch.nn.Conv2d(width, later, 3, padding=1, bias=False)
            self.fc = torch.nn.Linear(later, 2)

        def forward(self, x: Any) -> Any:
            h = torch.relu(self.next(torch.relu(self.bn(self.conv(x)))))
            return self.fc(h.mean((2, 3)))

    return Net()


@pytest.mark.parametrize("named", [False, True])
def test_pytorch_with_the_state_of_its_optimizer(tmp_path: Path, named: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = torch_net(torch, 8, 6)
    names = {name: name.replace("bn.running_var", "posbn.running_var") for name in net.state_dict()}
    state = {n: torch.from_numpy(WEIGHTS[names[n]].copy()) for n in names if names[n] in WEIGHTS}
    net.load_state_dict(state | {"bn.num_batches_tracked": torch.tensor(3)})
    optimizer = torch.optim.Adam(net.named_parameters() if named else net.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        net.train()(torch.from_numpy(X)).square().sum().backward()
        optimizer.step()
    path = tmp_path / "a.pt"
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 4}, path)
    trained = {n: t.detach().numpy().copy() for n, t in net.state_dict().items()}
    tensor_map = {"tensors": {"model.bn.running_var": "posbn.running_var"}}
    onnxprune.slice_checkpoint(PRUNED.plan, path, tmp_path / "b.pt", tensor_map=tensor_map)
    loaded = torch.load(tmp_path / "b.pt", weights_only=True)
    small = torch_net(torch, 4, 3)
    small.load_state_dict(loaded["model"])
    resumed = torch.optim.Adam(small.named_parameters() if named else small.parameters(), lr=0.01)
    resumed.load_state_dict(loaded["optimizer"])
    kept = np.delete(np.arange(8), PRUNED.plan.removed["conv.weight"]["0"])
    moments = resumed.state[small.conv.weight]["exp_avg"]
    torch.testing.assert_close(moments, optimizer.state[net.conv.weight]["exp_avg"][kept])
    assert loaded["epoch"] == 4 and moments.shape == (4, 3, 3, 3)
    small(torch.from_numpy(X)).square().sum().backward()
    resumed.step()  # what is resumed goes on
    masked = load(_with(trained))
    applied = onnxprune.apply(PRUNED.plan, masked.proto, verify=False)
    small.load_state_dict(loaded["model"])
    expected = local_session(load(applied.proto)).run(["y"], {"x": X})[0]
    np.testing.assert_allclose(small.eval()(torch.from_numpy(X)).detach().numpy(), expected, atol=1e-4)


def test_states_in_lists_and_parameters(tmp_path: Path) -> None:
    """As PyTorch Lightning writes them, and as `dict(net.named_parameters())` is saved."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = torch_net(torch, 8, 6)
    optimizer = torch.optim.Adam(net.named_parameters(), lr=0.01)
    net(torch.from_numpy(X)).square().sum().backward()
    optimizer.step()
    torch.save({"state_dict": net.state_dict(), "optimizer_states": [optimizer.state_dict()]}, tmp_path / "a.ckpt")
    tensor_map = {"tensors": {"state_dict.bn.running_var": "posbn.running_var"}}
    onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "a.ckpt", tmp_path / "b.ckpt", tensor_map=tensor_map)
    loaded = torch.load(tmp_path / "b.ckpt", weights_only=True)
    assert loaded["optimizer_states"][0]["state"][0]["exp_avg"].shape == (4, 3, 3, 3)
    torch.save({**net.state_dict(), **dict(net.named_parameters())}, tmp_path / "a.pt")
    tensor_map = {"tensors": {"bn.running_var": "posbn.running_var"}}
    onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "a.pt", tmp_path / "b.pt", tensor_map=tensor_map)
    made = torch.load(tmp_path / "b.pt", weights_only=True)["conv.weight"]
    assert isinstance(made, torch.nn.Parameter) and made.shape == (4, 3, 3, 3)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_files_of_pytorch_with_more_than_tensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    state = torch_net(torch, 8, 6).state_dict()
    (tmp_path / "junk.pt").write_bytes(b"xx")
    torch.save({"net": state, "options": argparse.Namespace(rate=1)}, tmp_path / "options.pt")
    torch.save({**state, "fc.weight": state["fc.weight"].to_sparse()}, tmp_path / "sparse.pt")
    says = {
        "junk": "is no file of tensors",
        "options": r"an object of argparse\.Namespace",
        "sparse": "a sparse tensor",
    }
    for name, words in says.items():
        with pytest.raises(InputError, match=words):
            onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / f"{name}.pt", tmp_path / "b.pt")
    assert not (tmp_path / "b.pt").exists()


def test_averages_in_a_list(tmp_path: Path) -> None:
    """Those of the parameters in their order; other lists of tensors stay."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = torch_net(torch, 8, 6)
    shadow = [parameter.detach() + 1 for parameter in net.parameters()]
    stored = {"net": net.state_dict(), "ema": {"decay": 0.9, "shadow": shadow}, "log": [torch.zeros(8)]}
    torch.save(stored, tmp_path / "a.pt")
    tensor_map = {"tensors": {"net.bn.running_var": "posbn.running_var"}}
    onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "a.pt", tmp_path / "b.pt", tensor_map=tensor_map)
    found = torch.load(tmp_path / "b.pt", weights_only=True)
    for (name, _), average in zip(net.named_parameters(), found["ema"]["shadow"], strict=True):
        torch.testing.assert_close(average, found["net"][name] + 1)
    assert found["log"][0].shape == (8,)


def _with(arrays: dict[str, Any]) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    for tensor in model.graph.initializer:
        array = arrays[tensor.name.replace("posbn", "bn")]
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return model


def test_group_lasso_in_pytorch_and_numpy() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    analysis = onnxprune.analyze(MODEL)
    groups = analysis.groups
    tensors = {name: torch.from_numpy(array.copy()).requires_grad_() for name, array in WEIGHTS.items()}
    term = onnxprune.group_lasso(groups, tensors)
    term.backward()
    assert term.item() == pytest.approx(float(onnxprune.group_lasso(groups, WEIGHTS)), rel=1e-5)
    assert tensors["conv.weight"].grad.abs().sum() > 0 and tensors["fc.bias"].grad is None


def hdf5_names() -> dict[str, Any]:
    return {
        "layers/conv2d/vars/0": WEIGHTS["conv.weight"].transpose(2, 3, 1, 0),
        "layers/batch_normalization/vars/0": WEIGHTS["bn.weight"],
        "layers/batch_normalization/vars/1": WEIGHTS["bn.bias"],
        "layers/batch_normalization/vars/2": WEIGHTS["bn.running_mean"],
        "layers/batch_normalization/vars/3": WEIGHTS["posbn.running_var"],
        "layers/conv2d_1/vars/0": WEIGHTS["next.weight"].transpose(2, 3, 1, 0),
        "layers/dense/vars/0": WEIGHTS["fc.weight"].T,
        "layers/dense/vars/1": WEIGHTS["fc.bias"],
    }


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    onnx.save(MODEL, tmp_path / "m.onnx")
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        for name, array in hdf5_names().items():
            file.create_dataset(name, data=array).attrs["trainable"] = True
        file.attrs["model_config"] = json.dumps(
            {
                "config": {
                    "layers": [
                        {"class_name": "Conv2D", "config": {"name": "a", "filters": 8}},
                        {"class_name": "Dense", "config": {"name": "b", "units": 2}},
                    ]
                }
            }
        )
    out = tmp_path / "b.weights.h5"
    onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "a.weights.h5", out, model=tmp_path / "m.onnx")
    with h5py.File(out, "r") as file:
        np.testing.assert_array_equal(file["layers/conv2d/vars/0"][()].transpose(3, 2, 0, 1), LEFT["conv.weight"])
        np.testing.assert_array_equal(file["layers/dense/vars/0"][()].T, LEFT["fc.weight"])
        assert file["layers/conv2d/vars/0"].attrs["trainable"]
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
    assert [layers[0]["config"]["filters"], layers[1]["config"]["units"]] == [4, 2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_keras_archive_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(epsilon=1e-5),
            layers.ReLU(),
            layers.Conv2D(6, 3, padding="same", use_bias=False, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )
    layers.Dense(3), layers.Conv2D(3, 1)  # others of the session, by which layers get their names
    net.set_weights(list(hdf5_names().values()))
    net.save(tmp_path / "a.keras")
    onnx.save(MODEL, tmp_path / "m.onnx")
    onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "a.keras", tmp_path / "b.keras", model=tmp_path / "m.onnx")
    small = keras.models.load_model(tmp_path / "b.keras")
    assert small.layers[0].kernel.shape[-1] == 4
    expected = local_session(load(PRUNED.proto)).run(["y"], {"x": X})[0]
    np.testing.assert_allclose(np.asarray(small(X.transpose(0, 2, 3, 1)).detach()), expected, atol=1e-4)
    net.compile(keras.optimizers.Adam(), "mse")
    net.fit(X.transpose(0, 2, 3, 1), np.zeros((2, 2)), verbose=0)
    net.save(tmp_path / "trained.keras")
    tensor_map = {f"layers/{name}": source for name, source in mapped_variables()}
    out = tmp_path / "smaller.keras"
    onnxprune.slice_checkpoint(PRUNED.plan, tmp_path / "trained.keras", out, tensor_map={"tensors": tensor_map})
    resumed = keras.models.load_model(out)
    kept = np.delete(np.arange(8), PRUNED.plan.removed["conv.weight"]["0"])
    moments = (np.asarray(one.optimizer.variables[2].value.detach()) for one in (net, resumed))
    np.testing.assert_array_equal(next(moments)[..., kept], next(moments))
    resumed.fit(X.transpose(0, 2, 3, 1), np.zeros((2, 2)), verbose=0)


def mapped_variables() -> Iterator[tuple[str, list[str]]]:
    """What the variables of the layers are called in the model, with the order of their axes."""
    for i, name in enumerate(["bn.weight", "bn.bias", "bn.running_mean", "posbn.running_var"]):
        yield f"batch_normalization/vars/{i}", [f"{name}:0"]
    for layer, name in (("conv2d", "conv"), ("conv2d_1", "next")):
        yield f"{layer}/vars/0", [f"{name}.weight:{axis}" for axis in (2, 3, 1, 0)]
    yield "dense/vars/0", ["fc.weight:1", "fc.weight:0"]
