"""Runs models in onnxruntime, in a process of its own: sessions, staged runs, sample inputs."""
