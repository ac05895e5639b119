"""Train the PyTorch models on the 8x8 digits and export them to ONNX with both of PyTorch's exporters.

``python tools/train_pytorch.py --out models`` takes a few minutes on two CPU cores.
"""

# Requirements (as used): torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 scikit-learn==1.9.1
#                         numpy==2.4.6

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from pytorch_networks import MobileNet, PatchTransformer, ResNet, RowLSTM, RowTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from training_data import INPUT_NAME, Digits, output_folder, save_model, write_data

BATCH = 64
SCRIPT = "tools/train_pytorch.py"


def shift(x: Tensor) -> Tensor:
    """Move each of the images [N, 1, 8, 8] by up to one pixel in both directions, filling with background."""
    crops = F.pad(x, (1, 1, 1, 1)).unfold(2, 8, 1).unfold(3, 8, 1)  # [N, 1, dy, dx, 8, 8]
    dy, dx = torch.randint(0, 3, (2, len(x)))
    return crops[torch.arange(len(x)), :, dy, dx]


def train(model: nn.Module, data: Digits, epochs: int, peak_rate: float) -> None:
    """Fit `model` to the training part with AdamW and a one-cycle schedule; leaves it in evaluation mode.

    The number of epochs is fixed; the held-out part is not looked at.
    """
    x, y = torch.from_numpy(data.train_x), torch.from_numpy(data.train_y)
    steps = len(x) // BATCH
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak_rate, total_steps=epochs * steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for step in range(steps):
            batch = order[step * BATCH : (step + 1) * BATCH]
            loss = F.cross_entropy(model(shift(x[batch])), y[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    model.eval()


def export_torchscript(model: nn.Module, opset: int, fold: bool = True) -> onnx.ModelProto:
    """Export through TorchScript tracing.

    Args:
        model: The network, in evaluation mode.
        opset: Version of the ONNX operators.
        fold: Let the exporter fold each BatchNormalization into the convolution before it. Without, the nodes stay.
    """
    # The exporter folds only where it is told to export for evaluation; keeping each module's own mode, which is
    # evaluation as well, gives inference nodes that are left alone.
    mode = torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        torch.onnx.export(
            model,
            (torch.zeros(2, 1, 8, 8),),
            path,
            input_names=[INPUT_NAME],
            output_names=["output"],
            dynamic_axes={INPUT_NAME: {0: "N"}, "output": {0: "N"}},
            opset_version=opset,
            training=mode,
            dynamo=False,
        )
        return onnx.load(path)


def export_dynamo(model: nn.Module, opset: int) -> onnx.ModelProto:
    """Export through `torch.export`; `opset` is the version of the ONNX operators."""
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        input_names=[INPUT_NAME],
        output_names=["output"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


@dataclass(frozen=True)
class Recipe:
    """How to train one network; the exports are (file name, description, exporter's name, exporter) of the result."""

    build: Callable[[], nn.Module]
    epochs: int
    peak_rate: float
    exports: list[tuple[str, str, str, Callable[[nn.Module], onnx.ModelProto]]]


RECIPES = [
    Recipe(
        ResNet,
        epochs=40,
        peak_rate=4e-3,
        exports=[
            (
                "pt_resnet_bn",
                "residual CNN, BatchNormalization nodes kept",
                "TorchScript, opset 17",
                lambda m: export_torchscript(m, 17, fold=False),
            ),
            (
                "pt_resnet_folded",
                "the same residual CNN and weights, BatchNormalization folded",
                "TorchScript, opset 17",
                lambda m: export_torchscript(m, 17),
            ),
        ],
    ),
    Recipe(
        MobileNet,
        epochs=40,
        peak_rate=4e-3,
        exports=[
            (
                "pt_mobilenet",
                "depthwise-separable CNN of inverted residuals",
                "dynamo, opset 18",
                lambda m: export_dynamo(m, 18),
            )
        ],
    ),
    Recipe(
        PatchTransformer,
        epochs=150,
        peak_rate=2e-3,
        exports=[
            (
                "pt_transformer",
                "pre-norm transformer encoder over 16 patches, separate q/k/v",
                "dynamo, opset 20",
                lambda m: export_dynamo(m, 20),
            )
        ],
    ),
    Recipe(
        RowTransformer,
        epochs=80,
        peak_rate=1.5e-3,
        exports=[
            (
                "pt_transformer_packed",
                "post-norm transformer encoder over 8 rows, packed q/k/v, class token",
                "TorchScript, opset 14",
                lambda m: export_torchscript(m, 14),
            )
        ],
    ),
    Recipe(
        RowLSTM,
        epochs=80,
        peak_rate=4e-3,
        exports=[
            (
                "pt_bilstm",
                "two-layer bidirectional LSTM over 8 rows",
                "TorchScript, opset 17",
                lambda m: export_torchscript(m, 17),
            )
        ],
    ),
]


def main(out: Path) -> None:
    """Train and export every recipe to the folder `out`."""
    torch.set_num_threads(2)
    data = write_data(out)
    for recipe in RECIPES:
        torch.manual_seed(0)  # anew for each network, so that none depends on those before it
        model = recipe.build()
        train(model, data, recipe.epochs, recipe.peak_rate)
        for name, description, exporter, export in recipe.exports:
            save_model(
                export(copy.deepcopy(model)),
                out,
                name,
                data=data,
                layout="nchw",
                output="output",
                framework=f"PyTorch {torch.__version__.split('+')[0]}",
                exporter=exporter,
                description=description,
                script=SCRIPT,
            )


if __name__ == "__main__":
    main(output_folder(__doc__ or ""))
