"""Errors in a command line."""

from __future__ import annotations

from tests.support.error_row import Row

OPTIONS = "onnxprune --help lists the options"

ROWS: dict[str, list[Row]] = {
    "Command line": [
        Row("no model", "", "MODEL is missing", OPTIONS),
        Row(
            "two models",
            "good.onnx out.onnx --ratio 0.5",
            "one model at a time: 'out.onnx' is too many",
            "the output is named with -o FILE",
        ),
        Row(
            "a verb misspelt",
            "insepct good.onnx",
            "one model at a time: 'good.onnx' is too many",
            "did you mean the verb 'inspect'?",
        ),
        Row(
            "pruning as a verb",
            "prune good.onnx --ratio 0.5",
            "one model at a time: 'good.onnx' is too many",
            "pruning has no verb: onnxprune MODEL --ratio 0.5",
        ),
        Row(
            "a sweep of nothing",
            "sweep good.onnx",
            "nothing says which variants to make",
            "give --ratio 0.2,0.3,0.5, say",
        ),
        Row(
            "the best of a sweep without limits",
            "sweep good.onnx --ratio 0.5 --keep-models best",
            "the best variant is the cheapest within limits, and there are none",
            "give --max-drop 0.01 or --gate agreement=0.98",
        ),
        Row(
            "ratios of a sweep that are no numbers",
            "sweep good.onnx --ratio 0.5,most",
            "--ratio: '0.5,most' are not numbers",
            "--ratio 0.2,0.3,0.5, say",
        ),
        Row(
            "a picture of another kind",
            "inspect good.onnx --graph groups.png",
            "--graph: 'groups.png' is neither .svg nor .dot",
            "--graph groups.svg, say",
        ),
        Row("an unknown option", "good.onnx --rato 0.5", "no such option: --rato", "did you mean --ratio?"),
        Row(
            "an option of another tool",
            "good.onnx --sparsity 0.5",
            "no such option: --sparsity",
            "did you mean --ratio?",
        ),
        Row(
            "the data under another name",
            "good.onnx --ratio 0.5 --calibration data.npz",
            "no such option: --calibration",
            "did you mean --calib?",
        ),
        Row("a value missing", "good.onnx --ratio", "Option '--ratio' requires an argument", OPTIONS),
        Row("no amount", "good.onnx", "nothing says how much to prune", "give a ratio or a target, say --ratio 0.5"),
        Row(
            "two amounts",
            "good.onnx --ratio 0.5 --pattern weights=0.5",
            "ratio and pattern 'weights=0.5' both say how much",
            "give one of them",
        ),
        Row(
            "a ratio of all",
            "good.onnx --ratio 1",
            "--ratio must be at least 0 and below 1, not 1",
            "--ratio 0.5 takes half of the channels",
        ),
        Row(
            "a ratio below 0",
            "good.onnx --ratio -0.1",
            "--ratio must be at least 0 and below 1, not -0.1",
            "--ratio 0.5 takes half of the channels",
        ),
        Row("a ratio that is none", "good.onnx --ratio half", "--ratio: 'half' is not a valid float", OPTIONS),
        Row(
            "a criterion under another name",
            "good.onnx --ratio 0.5 --importance magnitude",
            "unknown importance 'magnitude'",
            "did you mean 'l2'? one of l1, l2, fpgm, lamp, bn-scale, random, obs, wanda, flap, apoz, sparsegpt, alps, "
            "taylor, fisher, snip, grasp, synflow",
        ),
        Row(
            "an unknown pattern",
            "good.onnx --ratio 0.5 --pattern chanels",
            "unknown pattern 'chanels'",
            "channels, weights=0.7, 2:4, or blocks such as 4x1=0.5",
        ),
        Row(
            "a pattern without amount",
            "good.onnx --pattern weights",
            "pattern 'weights' does not say how much",
            "weights=0.7, say",
        ),
        Row(
            "two patterns",
            "good.onnx --pattern weights=0.5 --pattern weights=0.7",
            "patterns 'weights=0.5' and 'weights=0.7' both say which weights become zero",
            "one of them, and channels beside it",
        ),
        Row(
            "an unknown importance",
            "good.onnx --ratio 0.5 --importance fpmg",
            "unknown importance 'fpmg'",
            "did you mean 'fpgm'? one of l1, l2, fpgm, lamp, bn-scale, random, obs, wanda, flap, apoz, sparsegpt, alps, "
            "taylor, fisher, snip, grasp, synflow",
        ),
        Row(
            "importance from data without data",
            "good.onnx --ratio 0.5 --importance wanda --repair none",
            "importance 'wanda' needs calibration data",
            "give some with --calib",
        ),
        Row(
            "an unknown repair",
            "good.onnx --ratio 0.5 --repair some",
            "unknown repair 'some'",
            "one of auto, none, data-free, calibrated, distilled",
        ),
        Row(
            "repair from data without data",
            "good.onnx --ratio 0.5 --repair calibrated",
            "repair 'calibrated' needs calibration data",
            "give some with --calib",
        ),
        Row(
            "epochs without a training",
            "good.onnx --ratio 0.5 --epochs 3",
            "--epochs limits a training, and repair 'auto' has none",
            "give --repair distilled too",
        ),
        Row(
            "minutes below zero",
            "good.onnx --ratio 0.5 --repair distilled --minutes -1",
            "--minutes must be above 0, not -1",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "an unknown attention",
            "good.onnx --ratio 0.5 --attention tails",
            "unknown attention 'tails'",
            "one of heads, dims",
        ),
        Row(
            "a gate without a limit",
            "good.onnx --ratio 0.5 --gate drift",
            "gate 'drift' does not say how far",
            "drift=0.05, drift:OUTPUT=0.05, cosine=0.99, say",
        ),
        Row(
            "an unknown gate",
            "good.onnx --ratio 0.5 --gate drfit=0.1",
            "unknown gate 'drfit'",
            "did you mean 'drift'? one of drift, cosine, agreement",
        ),
        Row(
            "agreement without data",
            "good.onnx --ratio 0.5 --gate agreement=0.9",
            "gate agreement needs calibration data: synthetic inputs belong to no class",
            "give some with --calib, or ask for drift or cosine",
        ),
        Row(
            "a gate on no output",
            "good.onnx --ratio 0.5 --gate drift:z=0.1",
            "gate drift:z: output 'z' does not exist",
            "there are y",
        ),
        Row(
            "a gate without a check",
            "good.onnx --ratio 0.5 --gate drift=0.1 --no-verify",
            "gates are measured by the verification, which is switched off",
            "leave --no-verify away, or give data with --calib",
        ),
        Row(
            "a search without a gate",
            "good.onnx --drift-search",
            "a search needs something to stay within",
            "--max-drop 0.01 or --gate drift=0.05, say",
        ),
        Row(
            "a limit on the drop without data",
            "good.onnx --ratio 0.5 --max-drop 0.01",
            "--max-drop is measured on calibration data",
            "give some with --calib, labelled if you can",
        ),
        Row(
            "a limit below 0",
            "good.onnx --ratio 0.5 --max-drop -0.01 --calib few.npz",
            "--max-drop must be at least 0, not -0.01",
            "0.01 is a point of top1",
        ),
        Row(
            "an unknown metric",
            "good.onnx --ratio 0.5 --metric top --calib few.npz",
            "unknown metric 'top'",
            "did you mean 'top5'? one of top1, top5, mse, psnr, auc",
        ),
        Row(
            "a metric under another name",
            "good.onnx --ratio 0.5 --metric accuracy --calib few.npz",
            "unknown metric 'accuracy'",
            "did you mean 'top1'? one of top1, top5, mse, psnr, auc",
        ),
        Row(
            "a metric without labels",
            "good.onnx --ratio 0.5 --metric top1 --calib few.npz",
            "metric top1 needs labels, and the calibration data have none",
            "add an array of them named labels, or give images in a folder for each class",
        ),
        Row(
            "a search for zeros",
            "good.onnx --pattern 2:4 --gate drift=0.05 --drift-search",
            "a search looks for channels, not zeros",
            "leave --pattern away, or add --pattern channels",
        ),
        Row(
            "a name that matches nothing",
            "good.onnx --ratio 0.5 --only nothing_like_it",
            "'nothing_like_it' matches no initializer and no node",
            "onnxprune inspect lists the names",
        ),
        Row(
            "a pattern of names that is none",
            "good.onnx --ratio 0.5 --ignore (",
            "--ignore: '(' is not a regular expression: missing ), unterminated subpattern at position 0",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "such a pattern while looking",
            "inspect good.onnx --shrink (",
            "--shrink: '(' is not a regular expression: missing ), unterminated subpattern at position 0",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "an interface name that matches nothing",
            "good.onnx --ratio 0.5 --shrink past",
            "'past' matches no graph input or output",
            "there are x, y",
        ),
        Row(
            "too few channels",
            "good.onnx --ratio 0.5 --min-channels 0",
            "--min-channels must be at least 1, not 0",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "an unknown target",
            "good.onnx --target flops=0.5",
            "unknown target 'flops'",
            "one of macs, params, bytes, latency",
        ),
        Row(
            "a target without amount",
            "good.onnx --target macs",
            "target 'macs' does not say how much",
            "latency=0.6, macs=0.5 or bytes=4MB, say",
        ),
        Row(
            "a target twice",
            "good.onnx --target macs=0.5 --target macs=0.4",
            "target 'macs' is given twice",
            "give it once",
        ),
        Row(
            "a target that is no amount",
            "good.onnx --target macs=lots",
            "target macs=lots is no number",
            "a fraction such as 0.5, or an amount such as 2G or 4MB",
        ),
        Row(
            "rounds without data",
            "good.onnx --ratio 0.5 --steps 2 --repair none",
            "steps need calibration data, importance 'obs' and channels to remove",
            "give a ratio or a target, and data with --calib",
        ),
        Row(
            "blocks of a model without branches",
            "good.onnx --depth 2",
            "no block of the model may go: no residual branch can be left out as a whole",
            "leave --depth away",
        ),
        Row(
            "a number of samples without data",
            "good.onnx --ratio 0.5 --samples 10",
            "samples are those of calibration data, and none are given",
            "give some with --calib",
        ),
        Row(
            "a memory that is no size",
            "good.onnx --ratio 0.5 --memory lots",
            "memory 'lots' is no size",
            "500MB or 2GB, say",
        ),
        Row(
            "a shape for no input",
            "good.onnx --ratio 0.5 --input-shape z:1,3,8,8",
            "no input is called 'z'",
            "inputs: x",
        ),
        Row(
            "a shape that is none",
            "good.onnx --ratio 0.5 --input-shape x=1,3,8,8",
            "--input-shape: 'x=1,3,8,8' is not a name and sizes",
            "NAME:1,3,224,224 or NAME:1x3x224x224",
        ),
        Row(
            "a shape that does not fit",
            "good.onnx --ratio 0.5 --input-shape x:1,4,16,16",
            "input 'x' is declared Nx3x16x16, but 1x4x16x16 was given for it",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "a shape of another rank",
            "good.onnx --ratio 0.5 --input-shape x:1,3",
            "input 'x' has 4 axes, but 1x3 was given for it",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "a shape twice",
            "good.onnx --ratio 0.5 --input-shape x:1,3,16,16 --input-shape x:2,3,16,16",
            "--input-shape: 'x' is given twice",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "no runs",
            "compare good.onnx good.onnx --runs 0",
            "--runs: 0 is not in the range x>=1",
            "onnxprune compare --help lists the options",
        ),
        Row(
            "a place without --anonymise",
            "inspect good.onnx -o a.onnx",
            "-o says where --anonymise writes",
            "give both",
        ),
    ]
}
