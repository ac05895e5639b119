"""Every error that a user can cause, with the command that causes it (in the folder of `bad_files`) and what is printed.

`tools/error_table.py` makes tests/errors.md of it.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One error."""

    what: str
    command: str
    error: str
    hint: str


ROWS: dict[str, list[Row]] = {
    "Command line": [
        Row("no model", "", "MODEL is missing", "onnxprune --help lists the options"),
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
        Row("an unknown option", "good.onnx --rato 0.5", "no such option: --rato", "did you mean --ratio?"),
        Row(
            "a value missing",
            "good.onnx --ratio",
            "Option '--ratio' requires an argument",
            "onnxprune --help lists the options",
        ),
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
            "ratio must be at least 0 and below 1, not 1",
            "a ratio of 0.5 takes half of the channels",
        ),
        Row(
            "a ratio below 0",
            "good.onnx --ratio -0.1",
            "ratio must be at least 0 and below 1, not -0.1",
            "a ratio of 0.5 takes half of the channels",
        ),
        Row(
            "a ratio that is none",
            "good.onnx --ratio half",
            "--ratio: 'half' is not a valid float",
            "onnxprune --help lists the options",
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
            "did you mean 'fpgm'? one of l1, l2, fpgm, lamp, bn-scale, random, obs, wanda, flap, apoz, sparsegpt, alps",
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
            "one of auto, none, data-free, calibrated",
        ),
        Row(
            "repair from data without data",
            "good.onnx --ratio 0.5 --repair calibrated",
            "repair 'calibrated' needs calibration data",
            "give some with --calib",
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
            "a drift search needs a gate",
            "--gate drift=0.05, say",
        ),
        Row(
            "a search for zeros",
            "good.onnx --pattern 2:4 --gate drift=0.05 --drift-search",
            "a drift search looks for channels, not zeros",
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
            "ignore: '(' is not a regular expression: missing ), unterminated subpattern at position 0",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "such a pattern while looking",
            "inspect good.onnx --shrink (",
            "shrink: '(' is not a regular expression: missing ), unterminated subpattern at position 0",
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
            "min-channels must be at least 1, not 0",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "an unknown target", "good.onnx --target flops=0.5", "unknown target 'flops'", "one of macs, params, bytes"
        ),
        Row(
            "a target without amount",
            "good.onnx --target macs",
            "target 'macs' does not say how much",
            "macs=0.5, params=2M or bytes=4MB, say",
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
    ],
    "Files to write": [
        Row(
            "the output is the input",
            "good.onnx --ratio 0.5 -o good.onnx",
            "good.onnx: is the input, which is never changed",
            "choose another output name",
        ),
        Row(
            "the output is a folder",
            "good.onnx --ratio 0.5 -o folder",
            "folder: is a folder, not a file",
            "name a file in it, say folder/model.onnx",
        ),
        Row(
            "the folder does not exist",
            "good.onnx --ratio 0.5 -o no/out.onnx",
            "no/out.onnx: the folder no does not exist",
            "create it first",
        ),
        Row(
            "the output is a device",
            "good.onnx --ratio 0.5 -o /dev/null",
            "/dev/null: is not a regular file",
            "name a file to write",
        ),
        Row(
            "the output exists and nobody named it",
            "other.onnx --ratio 0.5",
            "other.pruned.onnx: exists already",
            "--force replaces it, -o names another file",
        ),
        Row(
            "the plan is the input",
            "good.onnx --ratio 0.5 --plan good.onnx",
            "good.onnx: is the input, which is never changed",
            "choose another output name",
        ),
        Row(
            "plan and model in one file",
            "good.onnx --ratio 0.5 --plan p -o p",
            "p: is to be both the plan and the model",
            "choose another name for one of them",
        ),
    ],
    "Models": [
        Row("no such file", "goof.onnx --ratio 0.5", "goof.onnx: no such file", "did you mean good.onnx?"),
        Row("a folder", "folder --ratio 0.5", "folder: is a folder, not a file", "give the .onnx file in it"),
        Row("a pipe or device", "pipe.bin --ratio 0.5", "pipe.bin: is not a regular file", "give the .onnx file"),
        Row(
            "an empty file",
            "empty.onnx --ratio 0.5",
            "empty.onnx: not an ONNX model (it has no ir_version)",
            "give a .onnx file",
        ),
        Row(
            "another kind of file",
            "text.onnx --ratio 0.5",
            "text.onnx: not an ONNX model (cannot be parsed)",
            "is the file complete?",
        ),
        Row(
            "a file cut short",
            "cut.onnx --ratio 0.5",
            "cut.onnx: not an ONNX model (cannot be parsed)",
            "is the file complete?",
        ),
        Row(
            "a Git LFS pointer",
            "lfs.onnx --ratio 0.5",
            "lfs.onnx: not an ONNX model (cannot be parsed)",
            "this is a Git LFS pointer; fetch the file itself with `git lfs pull`",
        ),
        Row(
            "onnxruntime's format",
            "ort.onnx --ratio 0.5",
            "ort.onnx: not an ONNX model (cannot be parsed)",
            "this is onnxruntime's own format; give the .onnx file that it was made from",
        ),
        Row(
            "no graph",
            "graph.onnx --ratio 0.5",
            "graph.onnx: not an ONNX model (it has no graph with nodes)",
            "give a .onnx file",
        ),
        Row(
            "messages nested without end",
            "nested.onnx --ratio 0.5",
            "nested.onnx: not an ONNX model (cannot be parsed)",
            "is the file complete?",
        ),
        Row(
            "text that is not UTF-8",
            "utf8.onnx --ratio 0.5",
            "utf8.onnx: a text of a NodeProto is not UTF-8",
            "export the model again",
        ),
        Row(
            "a negative dimension",
            "negative.onnx --ratio 0.5",
            "negative.onnx: tensor 'w1' has a dimension of -8",
            "export the model again",
        ),
        Row(
            "dimensions that overflow",
            "overflow.onnx --ratio 0.5",
            "overflow.onnx: tensor 'w1' has more elements than 64 bits count",
            "export the model again",
        ),
        Row(
            "dimensions out of all proportion",
            "absurd.onnx --ratio 0.5",
            "absurd.onnx: tensor 'w1' has 256 bytes of data; its type and dimensions ask for 35184372088832",
            "is the file complete?",
        ),
        Row(
            "data that do not match dimensions",
            "mismatch.onnx --ratio 0.5",
            "mismatch.onnx: tensor 'w1' has 256 bytes of data; its type and dimensions ask for 288",
            "is the file complete?",
        ),
        Row(
            "too few typed values",
            "typed.onnx --ratio 0.5",
            "typed.onnx: tensor 'w1' has 3 values of data; its type and dimensions ask for 64",
            "is the file complete?",
        ),
        Row(
            "a sparse tensor that overflows",
            "sparse.onnx --ratio 0.5",
            "sparse.onnx: tensor 's' has more elements than 64 bits count",
            "export the model again",
        ),
        Row(
            "an unknown element type",
            "type.onnx --ratio 0.5",
            "type.onnx: tensor 'w1' has element type 999, which is unknown",
            "a newer version of the package onnx may know it",
        ),
        Row(
            "an input that nothing makes",
            "dangling.onnx --ratio 0.5",
            "dangling.onnx: MatMul 'y' reads 'nowhere', which nothing defines",
            "export the model again",
        ),
        Row(
            "an output that nothing makes",
            "no_output.onnx --ratio 0.5",
            "no_output.onnx: graph output 'nowhere' is made by no node",
            "export the model again",
        ),
        Row(
            "a cycle",
            "cycle.onnx --ratio 0.5",
            "cycle.onnx: the graph has a cycle through MatMul 'h'",
            "a node cannot read what comes of its own output: export the model again",
        ),
        Row(
            "a node that reads itself",
            "itself.onnx --ratio 0.5",
            "itself.onnx: the graph has a cycle through MatMul 'h'",
            "a node cannot read what comes of its own output: export the model again",
        ),
        Row(
            "one name for two values",
            "two_makers.onnx --ratio 0.5",
            "two_makers.onnx: 'h' is defined twice in one graph",
            "names of values must be unique",
        ),
        Row(
            "one name for two weights",
            "two_weights.onnx --ratio 0.5",
            "two_weights.onnx: 'w1' is defined twice in one graph",
            "names of values must be unique",
        ),
        Row(
            "one name for two inputs",
            "two_inputs.onnx --ratio 0.5",
            "two_inputs.onnx: 'x' is defined twice in one graph",
            "names of values must be unique",
        ),
        Row(
            "a node without operator",
            "no_operator.onnx --ratio 0.5",
            "no_operator.onnx: a node names no operator",
            "export the model again",
        ),
        Row(
            "an attribute without the tensor that it announces",
            "no_tensor.onnx --ratio 0.5",
            "no_tensor.onnx: attribute 'value' of MatMul 'h' holds no tensor",
            "export the model again",
        ),
        Row(
            "a parameter outside of a function",
            "parameter.onnx --ratio 0.5",
            "parameter.onnx: attribute 'value' of MatMul 'h' names a parameter of a function, and is in none",
            "export the model again",
        ),
        Row(
            "a function that calls itself",
            "recursion.onnx --ratio 0.5",
            "recursion.onnx: the local function 'F0' calls itself",
            "export the model again",
        ),
        Row(
            "functions that unfold without end",
            "unfold.onnx --ratio 0.5",
            "unfold.onnx: its local functions unfold to a graph without bounds",
            "inline them before",
        ),
        Row(
            "an anonymised model",
            "left_out.onnx --ratio 0.5",
            "left_out.onnx: external data of 'w1' was left out",
            "onnxprune inspect takes such a model; all else needs the weights",
        ),
    ],
    "External data": [
        Row(
            "missing",
            "missing.onnx --ratio 0.5",
            "missing.onnx: external data of 'w1' is missing: no file 'missing.bin'",
            "copy the data file beside the model",
        ),
        Row(
            "in the folder above",
            "parent.onnx --ratio 0.5",
            "parent.onnx: external data of 'w1' is outside the model's folder: '../w.bin'",
            "put it beside the model",
        ),
        Row(
            "at an absolute place",
            "absolute.onnx --ratio 0.5",
            "absolute.onnx: external data of 'w1' is outside the model's folder: '/etc/passwd'",
            "put it beside the model",
        ),
        Row(
            "above, as Windows writes it",
            "backslash.onnx --ratio 0.5",
            "backslash.onnx: external data of 'w1' is outside the model's folder: '..\\w.bin'",
            "put it beside the model",
        ),
        Row(
            "behind a link that leaves the folder",
            "link.onnx --ratio 0.5",
            "link.onnx: external data of 'w1' is outside the model's folder: 'link.bin'",
            "put it beside the model",
        ),
        Row(
            "behind a link to itself",
            "loop.onnx --ratio 0.5",
            "loop.onnx: external data of 'w1' is missing: no file 'loop.bin'",
            "copy the data file beside the model",
        ),
        Row(
            "a pipe",
            "pipe.onnx --ratio 0.5",
            "pipe.onnx: external data of 'w1' is missing: no file 'pipe.bin'",
            "copy the data file beside the model",
        ),
        Row(
            "a folder",
            "folder.onnx --ratio 0.5",
            "folder.onnx: external data of 'w1' is missing: no file 'folder'",
            "copy the data file beside the model",
        ),
        Row(
            "a name with a zero byte",
            "zero_byte.onnx --ratio 0.5",
            "zero_byte.onnx: external data of 'w1' has no usable location: embedded null byte",
            "put it beside the model",
        ),
        Row(
            "a name too long",
            "long_place.onnx --ratio 0.5",
            "long_place.onnx: external data of 'w1' has no usable location: File name too long",
            "put it beside the model",
        ),
        Row(
            "past the end",
            "beyond.onnx --ratio 0.5",
            "beyond.onnx: external data of 'w1' ends at byte 384, but w.bin has 256 bytes",
            "is the data file complete?",
        ),
        Row(
            "far past the end",
            "far_beyond.onnx --ratio 0.5",
            "far_beyond.onnx: external data of 'w1' ends at byte 4611686018427388160, but w.bin has 256 bytes",
            "is the data file complete?",
        ),
        Row(
            "before the start",
            "before.onnx --ratio 0.5",
            "before.onnx: external data of 'w1' ends at byte 192, but w.bin has 256 bytes",
            "is the data file complete?",
        ),
        Row(
            "of another length",
            "length.onnx --ratio 0.5",
            "length.onnx: external data of 'w1' has 255 bytes; its type and dimensions ask for 256",
            "export the model again",
        ),
        Row(
            "an offset that is no number",
            "number.onnx --ratio 0.5",
            "number.onnx: external data of 'w1' has an offset or length that is not a number",
            "export the model again",
        ),
        Row(
            "an offset of 5000 digits",
            "digits.onnx --ratio 0.5",
            "digits.onnx: external data of 'w1' has an offset or length that is not a number",
            "export the model again",
        ),
    ],
    "Plans": [
        Row(
            "no such plan",
            "apply none.json good.onnx",
            "none.json: cannot be read: No such file or directory",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "not text",
            "apply binary.json good.onnx",
            "binary.json: is not a text file",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "not JSON",
            "apply text.json good.onnx",
            "the plan is not JSON: Expecting value: line 1 column 1 (char 0)",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "JSON nested without end",
            "apply deep.json good.onnx",
            "the plan is nested too deeply",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "not a plan",
            "apply array.json good.onnx",
            "not a plan: it lacks 'version' or 'model'",
            "write one with --plan FILE",
        ),
        Row(
            "of a later version",
            "apply later.json good.onnx",
            "the plan is not of version 1",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "of another graph",
            "apply good.json other.onnx -o new.onnx",
            "the plan was made for another graph",
            "a plan fits checkpoints of one architecture only",
        ),
        Row(
            "unknown keys",
            "apply keys.json good.onnx",
            "the plan has unknown keys: extra",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "a value of another kind",
            "apply list.json good.onnx",
            "the plan cannot be read: 'removed' is not of type dict",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "an entry of another kind",
            "apply kind.json good.onnx",
            "the plan cannot be read: the entry for 'w1' is not {axis: [indices]}",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "a key that no plan has any more",
            "apply blocks.json good.onnx",
            "the plan has unknown keys: blocks",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "a weight that the model lacks",
            "apply unknown.json good.onnx",
            "the plan names 'w9', which the model lacks",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "an axis that the weight lacks",
            "apply axis.json good.onnx",
            "the plan names axis 4 of 'w1', which has 4",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "an index that the axis lacks",
            "apply index.json good.onnx",
            "the plan names index 32 of axis 0 of 'w1', which has 32",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "what is pinned",
            "apply pinned.json good.onnx",
            "the plan removes index 0 of axis 0 of 'w2', which is pinned",
            "onnxprune inspect shows why",
        ),
        Row(
            "a part of what is tied",
            "apply part.json good.onnx",
            "the plan removes only a part of what is tied together: see index 0 of axis 0 of 'b1'",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "all of an axis",
            "apply all.json good.onnx",
            "the plan leaves nothing of axis 0 of 'w1'",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "a mask that cannot be read",
            "apply mask.json good.onnx",
            "a mask of the plan is not readable",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
        Row(
            "a mask that unpacks to anything",
            "apply bomb.json good.onnx",
            "a mask of the plan has another size than its tensor",
            "onnxprune MODEL --ratio R --plan FILE writes one",
        ),
    ],
    "Recipes": [
        Row(
            "no such recipe",
            "good.onnx --recipe none.toml",
            "none.toml: cannot be read: No such file or directory",
            "--recipe names a TOML file",
        ),
        Row(
            "not TOML",
            "good.onnx --recipe syntax.toml",
            "syntax.toml: is not TOML: Invalid value (at line 1, column 9)",
            "onnxprune --help tells what may be given",
        ),
        Row("an unknown key", "good.onnx --recipe key.toml", "key.toml: unknown key 'ratoi'", "did you mean 'ratio'?"),
        Row(
            "a value of another kind",
            "good.onnx --recipe value.toml",
            "value.toml: ratio must be a number, not 'half'",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "a key twice",
            "good.onnx --recipe twice.toml",
            "twice.toml: 'min-channels' is given twice, with - and with _",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "code to run",
            "good.onnx --recipe code.toml",
            "code.toml: calib names a function, and a recipe runs no code",
            "--calib os:getcwd, if you mean it",
        ),
    ],
    "Calibration data": [
        Row(
            "no such data",
            "good.onnx --ratio 0.5 --calib none.npz",
            "none.npz: no such file or folder",
            "did you mean none_in.npz?",
        ),
        Row(
            "another kind of file",
            "good.onnx --ratio 0.5 --calib text.onnx",
            "text.onnx: is neither .npz nor .npy",
            "for images, give their folder",
        ),
        Row(
            "a damaged file",
            "good.onnx --ratio 0.5 --calib damaged.npz",
            "damaged.npz: cannot be read: File is not a zip file",
            "is the file complete?",
        ),
        Row(
            "pickled objects",
            "good.onnx --ratio 0.5 --calib objects.npz",
            "objects.npz: 'x' holds Python objects",
            "save plain arrays; strings as dtype=str",
        ),
        Row(
            "an input by another name",
            "good.onnx --ratio 0.5 --calib name.npz",
            "name.npz: nothing for input 'x'",
            "given: z; inputs: x",
        ),
        Row(
            "another shape",
            "good.onnx --ratio 0.5 --calib shape.npz",
            "shape.npz: 'x' is 4x2x16x16, but the model takes Nx3x16x16",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "another type",
            "good.onnx --ratio 0.5 --calib words.npz",
            "words.npz: 'x' is <U1, but the model takes float32",
            "convert it where it is made: x.astype('float32'), scaled as in training",
        ),
        Row(
            "no samples",
            "good.onnx --ratio 0.5 --calib none_in.npz",
            "none_in.npz: has 0 samples, but at least 1 is needed",
            "give what the model takes, say --calib FILE.npz with an array for each input by its name",
        ),
        Row(
            "an empty folder",
            "good.onnx --ratio 0.5 --calib nothing",
            "nothing: no files in this folder",
            "images end in .jpg, .jpeg, .png, .bmp, .webp, .ppm, .pgm",
        ),
        Row(
            "pictures and arrays",
            "good.onnx --ratio 0.5 --calib both",
            "both: holds both images and arrays",
            "give a folder with one of them",
        ),
        Row(
            "no picture",
            "good.onnx --ratio 0.5 --calib pictures",
            "pictures/a.png: cannot be read as a picture: cannot identify image file 'pictures/a.png'",
            "give what the model takes, say --calib FILE.npz with an array for each input by its name",
        ),
        Row(
            "an unknown option",
            "good.onnx --ratio 0.5 --calib pictures,maen=1",
            "unknown image option 'maen'",
            "did you mean 'mean'? one of mean, std, scale, layout, resize, crop, color",
        ),
        Row(
            "an option that is no number",
            "good.onnx --ratio 0.5 --calib pictures,mean=a",
            "mean: 'a' is not a number",
            "mean=0.5, or one for each channel: mean=0.5:0.4:0.3",
        ),
        Row(
            "an option for no pictures",
            "good.onnx --ratio 0.5 --calib few.npz,mean=1",
            "few.npz: mean only mean something for a folder of images",
            "give what the model takes, say --calib FILE.npz with an array for each input by its name",
        ),
        Row(
            "no such module",
            "good.onnx --ratio 0.5 --calib no_such_module:call",
            "no_such_module:call: there is no module no_such_module",
            "is there a file no_such_module.py in this folder?",
        ),
        Row(
            "no such function",
            "good.onnx --ratio 0.5 --calib broken_module:cal",
            "broken_module:cal: module broken_module has no 'cal'",
            "it has call, number",
        ),
        Row(
            "a function that fails",
            "good.onnx --ratio 0.5 --calib broken_module:call",
            "broken_module:call: calling it failed: KeyError: 'inside'",
            "give what the model takes, say --calib FILE.npz with an array for each input by its name",
        ),
        Row(
            "a function that gives no data",
            "good.onnx --ratio 0.5 --calib broken_module:number",
            "broken_module:number: is int, which gives no samples",
            "give dicts of arrays, one after the other, by input name",
        ),
        Row(
            "a limit of none",
            "good.onnx --ratio 0.5 --calib few.npz --samples 0",
            "samples must be at least 1, not 0",
            "onnxprune --help tells what may be given",
        ),
        Row(
            "statistics that are none",
            "good.onnx --ratio 0.5 --stats damaged.npz",
            "damaged.npz: cannot be read as statistics: File is not a zip file",
            "gather them again with --calib",
        ),
    ],
}
"""By what it is about; all end with exit code 2."""

DISK_FULL = Row(
    "the disk is full",
    "good.onnx --ratio 0.5 -o FILE",
    "FILE: cannot be written: No space left on device",
    "make room, or name a file on another disk",
)
NOT_WRITABLE = Row(
    "the folder may not be written to",
    "good.onnx --ratio 0.5 -o FILE",
    "FILE: the folder FOLDER is not writable",
    "name a file where you may write",
)
NOT_READABLE = Row(
    "the model may not be read", "FILE --ratio 0.5", "FILE: cannot be read: Permission denied", "may you read it?"
)
NOT_VERIFIED = Row(
    "the pruned model fails (exit code 3)",
    "good.onnx --ratio 0.5",
    "the pruned model does not run in onnxruntime: WHY",
    "nothing was written; please report it with what onnxprune inspect --anonymise MODEL writes",
)
INTERNAL = Row(
    "a fault of the program (exit code 4, with its traceback)",
    "good.onnx --ratio 0.5",
    "internal error: KIND: WHY",
    "please report it with the traceback and what onnxprune inspect --anonymise MODEL writes",
)
CIRCUMSTANCES = [DISK_FULL, NOT_WRITABLE, NOT_READABLE, NOT_VERIFIED, INTERNAL]
"""What lies not in the files: tested where such circumstances are made. FILE and the like stand for what it concerns."""
