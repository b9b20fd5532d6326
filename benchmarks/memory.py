"""Peak activation memory of one image, beside ONNX Runtime's for the same network.

    python benchmarks/memory.py [--models resnet20,resnet50] [--out results/memory.json]

Ours is the plan's arena: it holds all activations, their borders, and the windows of chains. ONNX Runtime's is what its
arena takes for the second image: at the first it notes who lives when, and from then on one block holds all activations
("memory pattern"). The arena logs how much it asks the system for; it is told to ask for no more than it needs, and to
keep weights elsewhere. Inputs and outputs belong to the caller in both. Every network runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

MODELS = "resnet20,resnet50,mobilenet_v1,mobilenet_v2,efficientnet_lite0,unet"
SPARSITIES = (0.0, 0.95)
MARK = "image"


def exported(name: str, sparsity: float, path: Path) -> int:
    """Write the network to ``path``; returns the bytes of our arena."""
    import torch
    from _networks import with_random_groups

    import flexgroup

    model, x = with_random_groups(name, sparsity)
    torch.onnx.export(model, (x,), str(path), opset_version=17, dynamo=False, verbose=False)
    return flexgroup.compile(model, (x,)).memory.activations


def run_in_onnxruntime(path: Path) -> None:
    """Three images; what the arena does goes to the standard error."""
    import numpy as np
    import onnxruntime as ort

    ort.set_default_logger_severity(0)
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    as_requested = 1
    ort.create_and_register_allocator(place, ort.OrtArenaCfg(0, as_requested, -1, -1))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    image = np.zeros(port.shape, np.float32)
    for _ in range(3):
        print(MARK, file=sys.stderr, flush=True)
        session.run(None, {port.name: image})


def bytes_for_second_image(log: str) -> int:
    """What the arena asked for between the second and the third `MARK`; of the first image, if that was enough."""
    _, first, second, _ = re.split(rf"^{MARK}$", log, flags=re.MULTILINE)
    asked = [sum(map(int, re.findall(r"Extended allocation by (\d+) bytes", part))) for part in (first, second)]
    return asked[1] or asked[0]


def child(*arguments: str) -> subprocess.CompletedProcess[str]:
    """This file in a process of its own."""
    return subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)


def measure(name: str, sparsity: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        ours = int(child("--export", path, "--models", name, "--sparsity", str(sparsity)).stdout.splitlines()[-1])
        theirs = bytes_for_second_image(child("--run", path).stderr)
    return {"model": name, "sparsity": sparsity, "flexgroup": ours, "onnxruntime": theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--out", type=Path, help="write the results to this JSON file")
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sparsity", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        print(exported(options.models, options.sparsity, options.export))
        return
    if options.run:
        run_in_onnxruntime(options.run)
        return
    rows = []
    print(f"{'network':20} {'zeros':>6} {'flexgroup':>10} {'ONNX Runtime':>13}   MB of activations, one image")
    for name in options.models.split(","):
        for sparsity in SPARSITIES:
            row = measure(name, sparsity)
            rows.append(row)
            print(f"{name:20} {sparsity:6.0%} {row['flexgroup'] / 1e6:10.2f} {row['onnxruntime'] / 1e6:13.2f}")
    if options.out:
        import onnxruntime

        from flexgroup.report import this_machine

        document = {
            "command": f"python benchmarks/memory.py --models {options.models}",
            "machine": asdict(this_machine()),
            "onnxruntime": onnxruntime.__version__,
            "bytes": rows,
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
