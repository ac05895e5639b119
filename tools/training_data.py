"""The data the training scripts share, and the index of the models they leave behind.

The data is scikit-learn's bundled ``digits`` set: 1797 grey images of 8x8 pixels, ten classes, no download. It is split
once, with a fixed seed, into a training and a held-out part; the calibration images are a subset of the training part.

Run as a script, it only writes the data files: ``python tools/training_data.py --out models``.
"""

# Requirements (as used): onnx==1.23.2 onnxruntime==1.32.0 scikit-learn==1.9.1 numpy==2.4.6

from __future__ import annotations

import argparse
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SPLIT_SEED = 0
TEST_SIZE = 450
CALIBRATION_SIZE = 256
INPUT_NAME = "input"
SIZE_LIMIT = 1_000_000  # bytes

# Each framework keeps the layout it is used with, so that the exported graphs stay natural. The suffix goes into the
# names of the data files; the shape is that of one sample.
LAYOUTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "nchw": ("", (1, 8, 8)),
    "nhwc": ("_nhwc", (8, 8, 1)),
    "flat": ("_flat", (64,)),
}

TABLE_BEGIN = "<!-- models: begin (written by the training scripts) -->"
TABLE_END = "<!-- models: end -->"


@dataclass(frozen=True)
class Digits:
    """The split digits; images are float32 in [0, 1] with shape [N, 1, 8, 8], labels int64 with shape [N]."""

    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]

    @property
    def calibration_x(self) -> NDArray[np.float32]:
        """The first images of the (shuffled) training part, shape [256, 1, 8, 8]."""
        return self.train_x[:CALIBRATION_SIZE]


def load_split() -> Digits:
    """Load the digits and split them, stratified by class, always the same way."""
    images, labels = load_digits(return_X_y=True)
    x = (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)  # pixels are counts from 0 to 16
    train_x, test_x, train_y, test_y = train_test_split(
        x, labels.astype(np.int64), test_size=TEST_SIZE, random_state=SPLIT_SEED, stratify=labels
    )
    return Digits(train_x, train_y, test_x, test_y)


def to_layout(x: NDArray[np.float32], layout: str) -> NDArray[np.float32]:
    """Reshape images [N, 1, 8, 8] to a layout of `LAYOUTS`; with one channel no transposition is needed."""
    return x.reshape(-1, *LAYOUTS[layout][1])


def write_data(out: Path) -> Digits:
    """Write the held-out and the calibration files of every layout to `out`, and return the split."""
    out.mkdir(parents=True, exist_ok=True)
    data = load_split()
    for layout, (suffix, _) in LAYOUTS.items():
        # The key of the images is `INPUT_NAME`, so that a file can be fed to a model as it is.
        np.savez_compressed(out / f"digits_test{suffix}.npz", input=to_layout(data.test_x, layout), labels=data.test_y)
        np.savez_compressed(out / f"digits_calib{suffix}.npz", input=to_layout(data.calibration_x, layout))
    return data


def count_parameters(model: onnx.ModelProto) -> int:
    """Count the elements of the float tensors stored in a graph, running statistics included, scalars left out."""
    tensors = list(model.graph.initializer)
    tensors += [attr.t for node in model.graph.node if node.op_type == "Constant" for attr in node.attribute]
    return sum(math.prod(t.dims) for t in tensors if t.data_type == onnx.TensorProto.FLOAT and t.dims)


def accuracy(path: Path, x: NDArray[np.float32], y: NDArray[np.int64], output: str) -> float:
    """Measure with onnxruntime the share of samples whose largest score in `output` [N, 10] is at the true class."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    scores = np.asarray(session.run([output], {INPUT_NAME: x})[0])
    # The batch axis has to be dynamic and the samples independent of each other.
    np.testing.assert_allclose(
        np.asarray(session.run([output], {INPUT_NAME: x[:1]})[0]), scores[:1], rtol=1e-3, atol=1e-4
    )
    return float(np.mean(scores.argmax(axis=1) == y))


def strip_annotations(model: onnx.ModelProto) -> None:
    """Drop doc strings and exporter metadata: they hold stack traces with local paths and make up much of the file."""
    model.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    for item in [*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]:
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    for function in model.functions:
        function.ClearField("metadata_props")
        for node in function.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")


def save_model(
    model: onnx.ModelProto,
    out: Path,
    name: str,
    *,
    data: Digits,
    layout: str,
    output: str,
    framework: str,
    exporter: str,
    description: str,
    script: str,
) -> None:
    """Check, save and measure an exported classifier, and enter it in `INDEX.json` and in the table of `README.md`.

    Args:
        model: The exported model; its input is `INPUT_NAME`, batch first. Changed in place (annotations dropped).
        out: The folder of the models.
        name: The file name without `.onnx`.
        data: The split digits, for the held-out accuracy.
        layout: Key of `LAYOUTS`.
        output: Name of the class scores, shape [N, 10], in the graph's outputs.
        framework: Framework with its version.
        exporter: Exporter with its version and the opset.
        description: What the network is, in a few words.
        script: The script that trains it, relative to the repository.

    Raises:
        ValueError: If the file would be larger than `SIZE_LIMIT`.
    """
    strip_annotations(model)
    onnx.checker.check_model(model, full_check=True)
    path = out / f"{name}.onnx"
    content = model.SerializeToString()
    if len(content) >= SIZE_LIMIT:
        raise ValueError(f"{path.name} has {len(content)} bytes, the limit is {SIZE_LIMIT}")
    path.write_bytes(content)

    suffix, shape = LAYOUTS[layout]
    entry: dict[str, Any] = {
        "file": path.name,
        "description": description,
        "framework": framework,
        "exporter": exporter,
        "script": script,
        "task": "classification",
        "input": INPUT_NAME,
        "input_shape": ["N", *shape],
        "output": output,
        "test": f"digits_test{suffix}.npz",
        "calibration": f"digits_calib{suffix}.npz",
        "labels_key": "labels",
        "accuracy": round(accuracy(path, to_layout(data.test_x, layout), data.test_y, output), 6),
        "n": len(data.test_y),
        "params": count_parameters(model),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    index = out / "INDEX.json"
    entries = json.loads(index.read_text())["models"] if index.exists() else []
    entries = sorted([e for e in entries if e["file"] != path.name] + [entry], key=lambda e: str(e["file"]))
    index.write_text(json.dumps({"models": entries}, indent=2) + "\n")
    _update_table(out / "README.md", entries)
    print(f"{path.name}: {entry['params']} parameters, {len(content)} bytes, accuracy {entry['accuracy']:.4f}")


def _update_table(readme: Path, entries: list[dict[str, Any]]) -> None:
    """Rewrite the table between the two markers of `readme`; do nothing where there is no such file."""
    if not readme.exists():
        return
    rows = ["| Model | Network | Framework | Exporter | Parameters | Bytes | Held-out accuracy |"]
    rows += ["|---|---|---|---|---:|---:|---:|"]
    rows += [
        f"| `{e['file']}` | {e['description']} | {e['framework']} | {e['exporter']} "
        f"| {e['params']} | {e['bytes']} | {e['accuracy']:.4f} |"
        for e in entries
    ]
    head, rest = readme.read_text().split(TABLE_BEGIN)
    tail = rest.split(TABLE_END)[1]
    readme.write_text("\n".join([head + TABLE_BEGIN, *rows, TABLE_END]) + tail)


def output_folder(description: str) -> Path:
    """Parse the command line of a training script, whose one option is the folder to write to."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder for the models and the data files")
    return Path(parser.parse_args().out)


if __name__ == "__main__":
    write_data(output_folder("Write the held-out and the calibration data."))
