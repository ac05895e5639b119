"""Train a Keras CNN (TensorFlow backend, channels last) on the 8x8 digits and export it to ONNX with tf2onnx.

``python tools/train_keras.py --out models`` takes about a minute on two CPU cores.
"""

# Requirements (as used): tensorflow-cpu==2.21.0 keras==3.15.1 tf2onnx==1.17.0 onnx==1.23.2 onnxruntime==1.32.0
#                         scikit-learn==1.9.1 numpy==2.4.6

from __future__ import annotations

from pathlib import Path

import keras
import tensorflow as tf
import tf2onnx
from keras import KerasTensor, layers
from training_data import INPUT_NAME, output_folder, save_model, to_layout, write_data

OPSET = 17


def conv(x: KerasTensor, filters: int, kernel: int, stride: int = 1) -> KerasTensor:
    """Apply convolution, batch normalisation and ReLU to [N, H, W, C]."""
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def gate(x: KerasTensor, reduction: int = 4) -> KerasTensor:
    """Scale each channel of [N, H, W, C] by a weight computed from the means of all channels (squeeze-and-excite)."""
    channels = int(x.shape[-1])
    weights = layers.GlobalAveragePooling2D(keepdims=True)(x)
    weights = layers.Conv2D(channels // reduction, 1, activation="relu")(weights)
    weights = layers.Conv2D(channels, 1, activation="sigmoid")(weights)
    return layers.Multiply()([x, weights])


def build() -> keras.Model:
    """Build a CNN whose branches meet in a concatenation and in a sum; maps [N, 8, 8, 1] to logits [N, 10]."""
    image = keras.Input((8, 8, 1), name=INPUT_NAME)
    x = conv(image, 32, 3)
    x = layers.Concatenate()([conv(x, 32, 1), conv(conv(x, 24, 1), 32, 3)])
    x = layers.MaxPooling2D()(x)
    x = layers.Add()([x, gate(conv(conv(x, 64, 3), 64, 3))])
    x = conv(x, 64, 3, stride=2)
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    x = layers.Dense(64, activation="relu")(x)
    return keras.Model(image, layers.Dense(10)(x))


def main(out: Path) -> None:
    """Train and export the classifier to the folder `out`."""
    tf.config.threading.set_intra_op_parallelism_threads(2)
    keras.utils.set_random_seed(0)
    data = write_data(out)
    model = build()
    epochs, batch = 40, 64
    steps = epochs * -(-len(data.train_y) // batch)
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(2e-3, steps), weight_decay=0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(to_layout(data.train_x, "nhwc"), data.train_y, batch_size=batch, epochs=epochs, verbose=0)

    signature = [tf.TensorSpec((None, 8, 8, 1), tf.float32, name=INPUT_NAME)]
    # The dictionary names the output of the graph.
    function = tf.function(lambda x: {"output": model(x, training=False)}, input_signature=signature)
    exported, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    save_model(
        exported,
        out,
        "keras_cnn",
        data=data,
        layout="nhwc",
        output="output",
        framework=f"Keras {keras.__version__}, TensorFlow {tf.__version__}",
        exporter=f"tf2onnx {tf2onnx.__version__}, opset {OPSET}",
        description="channels-last CNN with concatenated branches, a squeeze-and-excite gate and a residual sum",
        script="tools/train_keras.py",
    )


if __name__ == "__main__":
    main(output_folder(__doc__ or ""))
