"""Errors of what is trained, and of checkpoints of frameworks."""

from __future__ import annotations

from tests.support.error_row import Row

CUBIC = "finetune good.onnx --calib few.npz --schedule cubic"

ROWS: dict[str, list[Row]] = {
    "Training": [
        Row(
            "gradients without data",
            "good.onnx --ratio 0.5 --importance taylor",
            "importance 'taylor' needs calibration data",
            "give some with --calib",
        ),
        Row(
            "an unknown loss",
            "finetune good.onnx --calib few.npz --loss hinge",
            "unknown loss 'hinge'",
            "one of cross-entropy, bce, mse, ctc, module:function",
        ),
        Row(
            "a blank that is no class",
            "finetune good.onnx --calib few.npz --loss ctc:last",
            "--loss ctc:last: the blank is the number of a class",
            "ctc:0, say",
        ),
        Row(
            "labels for a model that takes several samples at a time",
            "finetune pairs.onnx --calib labelled.npz",
            "the model takes 2 samples at a time, and the loss of labels is of one sample at a time",
            "export the model with a batch of any size",
        ),
        Row(
            "an end without a schedule",
            "finetune good.onnx --calib few.npz --end 0.5",
            "--end says how to prune while the model is trained, which nothing asks for",
            "give --schedule cubic",
        ),
        Row(
            "a schedule without an end",
            CUBIC,
            "--end says how much is pruned in the end, and is missing",
            "give --end 0.5, say",
        ),
        Row(
            "an end of a pattern that has its own",
            f"{CUBIC} --end 0.5 --pattern 2:4",
            "pattern '2:4' says by itself how much",
            "leave --end away",
        ),
        Row(
            "shares that fall",
            f"{CUBIC} --start 0.7 --end 0.5",
            "shares must rise from 0 at least to below 1, not from 0.7 to 0.5",
            "--start 0 --end 0.5, say",
        ),
        Row(
            "a criterion that asks for data while a model is trained",
            f"{CUBIC} --end 0.5 --importance obs",
            "importance 'obs' does not choose channels by weights alone",
            "movement, l2 and l1 do",
        ),
    ],
    "Checkpoints": [
        Row(
            "a checkpoint that is not there",
            "slice good.json none.npz",
            "none.npz: no such file",
            "a checkpoint of the model that the plan is for",
        ),
        Row(
            "a checkpoint of an unknown kind",
            "slice good.json good.onnx -o new.onnx",
            "good.onnx: is no checkpoint of a known kind",
            "one of .npz, .safetensors, .pt, .pth, .bin, .ckpt, .h5, .hdf5, .keras",
        ),
        Row(
            "another kind of checkpoint to write",
            "slice good.json few.npz -o new.pt",
            "new.pt: a .npz file is sliced to another .npz file",
            "new.npz, say",
        ),
        Row(
            "channels that come back from nowhere",
            "apply good.json good.onnx --grow-from good.json -o new.onnx",
            "--grow-from and --trained go together",
            "a plan, and what it made",
        ),
    ],
}
