"""OpenVINO's CPU plugin, in float32 and in bfloat16."""

from __future__ import annotations

from _peers._engine import Call, Engine, Environment, Files


class OpenVino(Engine):
    key = "openvino"
    name = "OpenVINO"
    environment = Environment("openvino", (("openvino==2026.4.1",),))
    distributions = ("openvino",)
    options = "latency hint, one stream, f32 precision hint (its default may be bf16)"
    hint = "f32"

    def load(self, files: Files, threads: int) -> Call:
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": self.hint,
        }
        request = openvino.Core().compile_model(str(files.onnx), "CPU", settings).create_infer_request()
        feeds = {0: files.example()}
        return lambda: request.infer(feeds, share_inputs=True, share_outputs=True)[0]


class OpenVinoBf16(OpenVino):
    key = "openvino-bf16"
    name = "OpenVINO bf16"
    precision = "bf16"
    tolerance = 0.2  # 8 bits of precision, through tens of layers of random weights
    options = "latency hint, one stream, bf16 precision hint"
    hint = "bf16"
