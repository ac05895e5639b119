"""What comes before and after pruning: inference engines and tools that rewrite ONNX models.

    python -m tools.engines MODEL... [--only NAME] [--json FILE] [--markdown]

Each module named in `registry.NAMES` is one engine or one tool, with `PACKAGES`, the distributions that it needs, and
one function:

- an engine: ``outputs(model, feeds, folder)`` converts a model, runs it, and returns its outputs in order;
- a tool: ``convert(source, target, samples)`` writes another ONNX model.

An engine is given the original and the pruned model, a tool is applied before and after pruning. Every attempt runs in
a process of its own: converters crash and hang. What is not installed is skipped, and said.
"""
