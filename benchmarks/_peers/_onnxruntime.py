"""ONNX Runtime on its CPU provider."""

from __future__ import annotations

from _peers._engine import Call, Engine, Files


class OnnxRuntime(Engine):
    key = "onnxruntime"
    name = "ONNX Runtime"
    distributions = ("onnxruntime",)
    options = "all graph optimizations, sequential execution, threads stop spinning when a call returns"

    def load(self, files: Files, threads: int) -> Call:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(str(files.onnx), options, providers=["CPUExecutionProvider"])
        feeds = {session.get_inputs()[0].name: files.example()}
        return lambda: session.run(None, feeds)[0]
