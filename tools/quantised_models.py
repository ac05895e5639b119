"""Makes quantised, low-precision and fused models, prunes each, and holds the result to masked equivalence.

    python tools/quantised_models.py --judge ../shared/zoo/equivalence.py [--zoo ../shared/zoo] [--only dynamic]
        [--keep FOLDER] [--ratio 0.5] [--markdown]

The models come from models/*.onnx, from architectures of the zoo where it is given, and from graphs of fused operators
written by hand; onnxruntime's quantisation and optimisation tools make the variants. Each is pruned by the command line
with ``--repair none`` and judged by a script that takes ORIGINAL PRUNED --plan PLAN. Prints a row a model; a variant
that cannot be made is named with the reason (onnxruntime's optimiser wants sympy installed for fused attention). Exit
status 0 when none crashes and none is wrong.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxprune.runtime.sample_inputs import sample_inputs
from tests.support.fused_models import by_hand
from tests.support.quantised_models import CONVOLUTIONS, MATRICES, VARIANTS, dynamic, fused
from tests.support.stored_forms import Maker
from tools.prune_real import prune, show

ROOT = Path(__file__).resolve().parents[1]
OWN = {
    "pt_resnet_bn": CONVOLUTIONS,
    "pt_resnet_folded": CONVOLUTIONS,
    "pt_mobilenet": CONVOLUTIONS,
    "keras_cnn": ["qdq-channel", "qoperator", "dynamic", "float16", "extended"],
    "pt_transformer": MATRICES,
    "pt_transformer_packed": ["qdq", "dynamic-channel", "nbits", "extended", "all"],
    "pt_bilstm": ["qdq", "dynamic", "float16", "bfloat16", "extended"],
    "sk_mlp": ["qdq", "dynamic", "extended"],
}
FUSED: dict[str, Maker] = {f"fused-{kind}": fused(kind) for kind in ("bert", "vit", "clip", "gpt2", "t5")}
FUSED["fused-bert-dynamic"] = fused("bert", dynamic(per_channel=True))
ZOO = {
    "transformers/bert_cls": ["fused-bert", "fused-bert-dynamic", "nbits", "dynamic-channel", "all"],
    "transformers/bert_cls__dynamo": ["fused-bert"],
    "transformers/electra": ["fused-bert"],
    "transformers/vit": ["fused-vit", "qdq-channel", "extended"],
    "transformers/clip": ["fused-clip"],
    "transformers/t5_encoder": ["fused-t5", "dynamic"],
    "transformers/opt": ["fused-gpt2", "dynamic"],
    "transformers/llama": ["fused-gpt2", "nbits", "nbits-points", "extended", "bfloat16"],
    "transformers/swin": ["extended", "dynamic-channel"],
    "hand/gqa_swiglu": ["nbits", "blocked-int4", "fused-gpt2"],
    "hand/lstm_stacked": ["dynamic", "dynamic-channel"],
    "hand/yolov8_like": ["qdq-channel", "qoperator-channel"],
    "hand/shufflenet_v2_like": ["qdq", "qoperator", "all"],
    "hand/unet_bilinear": ["qdq-channel", "qoperator"],
    "hand/resnext_grouped": ["qdq-channel", "qoperator", "all"],
    "hand/se_resnet": ["qdq", "float16"],
    "torchvision/mobilenet_v3_small": ["qdq-channel", "qoperator-channel", "all"],
    "torchvision/resnet18": ["qoperator", "qdq-u8"],
}

Entry = tuple[str, Callable[[], onnx.ModelProto]]


def entries(zoo: Path | None, only: str) -> Iterator[Entry]:
    """Name and maker of every model."""
    for name, graph in by_hand().items():
        yield f"hand.{name}", lambda graph=graph: graph
        yield f"hand.{name}.dynamic", lambda graph=graph: dynamic(per_channel=True)(graph, [])
    for stem, variants in OWN.items():
        for variant in variants:
            yield f"{stem}.{variant}", lambda stem=stem, variant=variant: _own(stem, variant)
    for path, variants in ZOO.items() if zoo is not None else ():
        for variant in variants:
            yield f"{path.replace('/', '.')}.{variant}", lambda path=path, variant=variant: _of_zoo(zoo, path, variant)


def _own(stem: str, variant: str) -> onnx.ModelProto:
    model = onnx.load(ROOT / "models" / f"{stem}.onnx")
    return VARIANTS[variant](model, [sample_inputs(model, seed=seed) for seed in range(2)])


def _of_zoo(zoo: Path | None, path: str, variant: str) -> onnx.ModelProto:
    sys.path.insert(0, str(zoo))
    import hydrate

    model = hydrate.load(f"{zoo}/skeletons/{path}.onnx.gz")
    made = {**VARIANTS, **FUSED}[variant](model, [hydrate.sample_inputs(model, seed) for seed in range(2)])
    present = {p.key for p in made.metadata_props}
    made.metadata_props.extend(p for p in model.metadata_props if p.key not in present)  # says which inputs it takes
    return made


def _kept(model: onnx.ModelProto) -> str:
    """The operators that make the model worth a look."""
    kinds = {
        f"{n.op_type}"
        for n in model.graph.node
        if n.domain or "Quant" in n.op_type or "QL" in n.op_type or "Integer" in n.op_type
    }
    return " ".join(sorted(kinds))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--only", default="", help="names that contain this")
    parser.add_argument("--keep", type=Path, help="folder to leave the models in")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()
    rows, lacking = [], []
    for name, make in entries(args.zoo and args.zoo.resolve(), args.only):
        if args.only not in name:
            continue
        with tempfile.TemporaryDirectory() as tmp:
            path = (args.keep or Path(tmp)) / f"{name}.onnx"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                model = make()
            except Exception as e:  # whatever onnxruntime's tools stumble over is theirs
                lacking.append(f"{name}: not made ({type(e).__name__}: {str(e).strip().splitlines()[0][:100]})")
                print(lacking[-1], file=sys.stderr, flush=True)
                continue
            onnx.save(model, path)
            rows.append(prune(path, Path(tmp), args.ratio, args.judge))
            print(
                f"{name}: {rows[-1][1]}, parameters {rows[-1][3]}, bytes {rows[-1][6]}; {_kept(model)}",
                file=sys.stderr,
                flush=True,
            )
    show(rows, args.markdown)
    good = sum(row[1].startswith(("equivalent", "not judged")) for row in rows)
    print(f"\n{good} of {len(rows)} models pruned and equivalent; {len(lacking)} could not be made")
    print("\n".join(lacking))
    return int(good < len(rows))


if __name__ == "__main__":
    sys.exit(main())
