"""MNN, with dense and with its sparse convolutions."""

from __future__ import annotations

from _peers._engine import Call, Engine, Environment, Files
from _peers._module import rows_of


class Mnn(Engine):
    key = "mnn"
    name = "MNN"
    environment = Environment("mnn", (("MNN==3.6.1",),))
    distributions = ("MNN",)
    options = "precision high (fp32)"

    def convert(self, files: Files) -> None:
        # The module behind the command `mnnconvert`. The command itself also loads a logger that installs a
        # package when it starts and reports each conversion to its makers.
        import _tools

        model = str(files.own / "model.mnn")
        arguments = ["mnnconvert", "-f", "ONNX", "--modelFile", str(files.onnx), "--MNNModel", model]
        _tools.mnnconvert([*arguments, "--bizCode", "benchmark", *self.extra_arguments(files)])

    def extra_arguments(self, files: Files) -> list[str]:
        """What the converter is told beside the files' names."""
        return []

    def load(self, files: Files, threads: int) -> Call:
        import MNN
        import numpy as np

        interpreter = MNN.Interpreter(str(files.own / "model.mnn"))
        session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
        x = files.example()
        given, result = interpreter.getSessionInput(session), interpreter.getSessionOutput(session)
        host = MNN.Tensor(x.shape, MNN.Halide_Type_Float, x, MNN.Tensor_DimensionType_Caffe)
        shape = result.getShape()
        output = MNN.Tensor(shape, MNN.Halide_Type_Float, np.empty(shape, np.float32), MNN.Tensor_DimensionType_Caffe)

        def call() -> object:
            given.copyFrom(host)
            interpreter.runSession(session)
            result.copyToHostTensor(output)
            return output.getNumpyData()

        return call


class MnnSparse(Mnn):
    key = "mnn-sparse"
    name = "MNN sparse"
    sparse, dense = True, False
    options = "precision high (fp32), --detectSparseSpeedUp, blocks of output channels as high as the groups"

    def extra_arguments(self, files: Files) -> list[str]:
        parameters = files.own / "compression.bin"
        parameters.write_bytes(blocks_of_output_channels(rows_of(files)))
        return ["--detectSparseSpeedUp", "--compressionParamsFile", str(parameters)]


def blocks_of_output_channels(count: int) -> bytes:
    """MNN's compression file for weights that are zero in blocks of ``count`` output channels.

    It is a protocol buffer, MNN.Compression.Pipeline: {version: "0.0.0", algo: {type: PRUNE, prune_params: {type:
    SIMD_OC, simd_oc_pruner_params: {oc_blocks: count}}}}, short enough to be written by hand.
    """
    pruner = bytes([0x20, count])
    parameters = bytes([0x08, 1, 0x1A, len(pruner)]) + pruner
    algorithm = bytes([0x08, 1, 0x1A, len(parameters)]) + parameters
    version = b"0.0.0"
    return bytes([0x0A, len(version)]) + version + bytes([0x12, len(algorithm)]) + algorithm
