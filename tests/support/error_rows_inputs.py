"""Errors in plans, recipes and calibration data."""

from __future__ import annotations

from tests.support.error_row import Row

ROWS: dict[str, list[Row]] = {
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
            "onnxprune MODEL --ratio R --plan FILE writes one",
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
            "--recipe names a TOML or JSON file",
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
            "twice.toml: 'min-channels' is given twice",
            "a key may be written with - or with _, once",
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
            "--samples must be at least 1, not 0",
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
