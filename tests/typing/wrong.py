"""What a type checker must refuse: the code of the error stands behind each line."""

import onnxprune
from onnxprune.options import Channels, Options, Zeros

analysis = onnxprune.analyze("model.onnx")
result = onnxprune.prune("model.onnx", 0.5)

onnxprune.prune("model.onnx", ratoi=0.5)  # E: call-arg
onnxprune.prune("model.onnx", 0.5, pattren="2:4")  # E: call-arg
onnxprune.prune("model.onnx", 0.5, across=True)  # E: call-arg
onnxprune.prune("model.onnx", 0.5, "l2")  # E: call-arg
onnxprune.prune(42, 0.5)  # E: arg-type
onnxprune.prune(b"model", 0.5)  # E: arg-type
onnxprune.prune(None, 0.5)  # E: arg-type
onnxprune.prune("model.onnx", "half")  # E: arg-type
onnxprune.prune("model.onnx", 0.5, mixing="no")  # E: arg-type
onnxprune.prune("model.onnx", 0.5, target="macs=0.5")  # E: arg-type
onnxprune.prune("model.onnx", 0.5, input_shapes={"x": 5})  # E: dict-item
onnxprune.prune("model.onnx", 0.5, seed=1.5)  # E: arg-type
onnxprune.prune("model.onnx", 0.5, importance=3)  # E: arg-type
onnxprune.plan(analysis, 0.5, mixing="no")  # E: arg-type
onnxprune.plan(analysis, 0.5, keep_anyway=True)  # E: call-arg
onnxprune.plan("model.onnx", 0.5)  # E: arg-type
onnxprune.score(analysis, 5)  # E: arg-type
onnxprune.score(analysis, crit="l2")  # E: call-arg
onnxprune.analyze("model.onnx", mixing="no")  # E: arg-type
onnxprune.apply("plan.json", "model.onnx")  # E: arg-type
onnxprune.verify("model.onnx")  # E: call-arg
print(result.report["params"])  # E: index
print(result.report.parms)  # E: attr-defined
print(result.report.params.aftr)  # E: attr-defined
result.plan = 5  # E: assignment
Options(ratio=0.5)  # E: call-arg
Channels(ratio=0.5, importnace="l2")  # E: call-arg
Zeros()  # E: call-arg
print(onnxprune.prun)  # E: attr-defined
