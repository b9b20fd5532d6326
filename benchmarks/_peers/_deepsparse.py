"""DeepSparse, whose last engine is 1.8.0: it needs an environment of its own and reads ONNX up to opset 13."""

from __future__ import annotations

from types import MappingProxyType

from _peers._engine import Call, Engine, Environment, Files


class DeepSparse(Engine):
    key = "deepsparse"
    name = "DeepSparse"
    environment = Environment("deepsparse", (("deepsparse==1.8.0",),), newest_python=11)
    distributions = ("deepsparse",)
    sparse = True
    options = "single-stream scheduler"
    variables = MappingProxyType({"NM_DISABLE_ANALYTICS": "True", "DO_NOT_TRACK": "1"})

    def load(self, files: Files, threads: int) -> Call:
        from deepsparse import Engine as Runtime

        engine = Runtime(str(files.onnx), batch_size=1, num_cores=threads)
        feeds = [files.example()]
        return lambda: engine.run(feeds)[0]
