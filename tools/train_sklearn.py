"""Train a scikit-learn perceptron on the 8x8 digits and export it to ONNX with skl2onnx.

``python tools/train_sklearn.py --out models`` takes seconds.
"""

# Requirements (as used): scikit-learn==1.9.1 skl2onnx==1.20.0 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6

from __future__ import annotations

from pathlib import Path

import skl2onnx
import sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from training_data import INPUT_NAME, output_folder, save_model, to_layout, write_data

OPSET = 17


def main(out: Path) -> None:
    """Train and export the classifier to the folder `out`."""
    data = write_data(out)
    pipeline = make_pipeline(
        StandardScaler(), MLPClassifier((256, 128), alpha=1e-2, batch_size=64, max_iter=60, random_state=0)
    )
    pipeline.fit(to_layout(data.train_x, "flat"), data.train_y)
    model = skl2onnx.to_onnx(
        pipeline,
        initial_types=[(INPUT_NAME, FloatTensorType([None, 64]))],
        # A plain tensor of probabilities instead of one map per sample.
        options={id(pipeline): {"zipmap": False}},
        target_opset=OPSET,
    )
    save_model(
        model,
        out,
        "sk_mlp",
        data=data,
        layout="flat",
        output="probabilities",
        framework=f"scikit-learn {sklearn.__version__}",
        exporter=f"skl2onnx {skl2onnx.__version__}, opset {OPSET}",
        description="standard scaler and perceptron with hidden layers of 256 and 128",
        script="tools/train_sklearn.py",
    )


if __name__ == "__main__":
    main(output_folder(__doc__ or ""))
