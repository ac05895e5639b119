"""ncnn on the CPU, in float32, by way of pnnx; a batch of one sample, which ncnn has no axis for, is taken away."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

PACKAGES = ("ncnn", "pnnx")
_TYPES = {"float32": "f32", "int64": "i64", "int32": "i32"}


def outputs(model: Path, feeds: Mapping[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    """Converts a model with `pnnx` and runs it."""
    import ncnn
    import pnnx

    shutil.copy(model, folder / "m.onnx")
    shapes = ",".join(f"[{','.join(map(str, x.shape))}]{_TYPES[str(x.dtype)]}" for x in feeds.values())
    program = next(
        path
        for path in (Path(pnnx.__file__).parent / "bin" / "pnnx", Path(sys.executable).parent / "pnnx")
        if path.exists()
    )
    done = subprocess.run(
        [str(program), "m.onnx", f"inputshape={shapes}", "fp16=0"], cwd=folder, capture_output=True, text=True
    )
    if not (folder / "m.ncnn.param").exists():
        raise RuntimeError(f"pnnx: {(done.stdout + done.stderr).strip()[-300:]}")
    net = ncnn.Net()
    net.opt.num_threads, net.opt.use_vulkan_compute = 1, False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(str(folder / "m.ncnn.param")) or net.load_model(str(folder / "m.ncnn.bin")):
        raise RuntimeError("ncnn does not load what pnnx made")
    squeezed = "squeeze(0)" in (folder / "m_ncnn.py").read_text()
    found = []
    with net.create_extractor() as extractor:
        for name, array in zip(net.input_names(), feeds.values(), strict=True):
            array = array.astype(np.int32) if array.dtype == np.int64 else array
            array = array[0] if squeezed and array.shape[0] == 1 else array
            extractor.input(name, ncnn.Mat(np.ascontiguousarray(array)).clone())
        for name in sorted(net.output_names(), key=lambda text: int("".join(filter(str.isdigit, text)) or 0)):
            status, result = extractor.extract(name)
            if status:
                raise RuntimeError(f"ncnn: output {name}: status {status}")
            found.append(np.array(result))
    return found
