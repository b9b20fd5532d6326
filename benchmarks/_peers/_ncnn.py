"""ncnn on the CPU, through its converter pnnx."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

from _peers._engine import Call, Engine, Environment, Files


class Ncnn(Engine):
    key = "ncnn"
    name = "ncnn"
    environment = Environment("ncnn", (("ncnn==1.0.20261020",), ("--no-deps", "pnnx==20261020")))
    distributions = ("ncnn", "pnnx")
    options = "fp32 storage and arithmetic (no fp16, no bf16)"

    def convert(self, files: Files) -> None:
        # Found without importing it: the Python package wants torch, its program does not.
        (package,) = importlib.util.find_spec("pnnx").submodule_search_locations  # type: ignore[union-attr, misc]
        program = Path(package) / "pnnx"
        model = files.own / "model.onnx"  # pnnx writes beside its input
        model.write_bytes(files.onnx.read_bytes())
        shape = ",".join(map(str, files.example().shape))
        command = [str(program), str(model), f"inputshape=[{shape}]", "fp16=0"]
        done = subprocess.run(command, cwd=files.own, text=True, capture_output=True, check=False)
        model.unlink()
        words = done.stdout + done.stderr
        refused = [line for line in words.splitlines() if "not supported" in line]
        if done.returncode or refused:  # it exits with 0 and leaves out what it does not know
            raise RuntimeError(f"pnnx: {refused[0] if refused else words[-200:]}")

    def load(self, files: Files, threads: int) -> Call:
        import ncnn
        import numpy as np

        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(net.opt, name, False)
        if net.load_param(str(files.own / "model.ncnn.param")) or net.load_model(str(files.own / "model.ncnn.bin")):
            raise RuntimeError("ncnn cannot load what pnnx wrote")
        (given,), (result,) = net.input_names(), net.output_names()
        image = files.example()[0]
        x = ncnn.Mat(image).clone()  # a Mat only borrows the memory of its array

        def call() -> object:
            extractor = net.create_extractor()
            extractor.input(given, x)
            _, y = extractor.extract(result)
            return np.array(y)

        return call
