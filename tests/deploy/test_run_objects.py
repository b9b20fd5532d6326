"""An exported object, linked into a program of its own, computes what torch computes."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from flexgroup import Groups
from flexgroup.deploy import export
from flexgroup.pruning import prune
from flexgroup.zoo import build, digits_net, load_weights

DEPLOY_PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"


def close(given: np.ndarray, expected: torch.Tensor) -> bool:
    """Within 1e-4 of the largest number expected."""
    want = expected.detach().numpy().reshape(given.shape)
    return bool(np.abs(given - want).max() <= 1e-4 * np.abs(want).max())


def images(*shape: int, count: int = 3) -> list[torch.Tensor]:
    return list(torch.randn(count, 1, *shape, generator=torch.Generator().manual_seed(5)))


def runs_as_torch(run_objects, machine: str, files, model, inputs: list[torch.Tensor]) -> None:
    """Several inputs, the first one again at the end: what one run leaves behind must not reach the next."""
    rounds = [*inputs, inputs[0]]
    results = run_objects(machine, [files], [[x.numpy()] for x in rounds])
    for x, (given,) in zip(rounds, results, strict=True):
        assert close(given, model(x))
    assert np.array_equal(results[0][0], results[-1][0])


def x86_targets() -> list[str]:
    if platform.machine() != "x86_64" or not Path("/proc/cpuinfo").exists():
        return []
    flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    wanted = {"x86-64": set(), "x86-64-avx2": {"avx2", "fma", "bmi2"}, "x86-64-avx512": {"avx512vl", "avx512bw"}}
    return [target for target, needed in wanted.items() if needed <= flags]


@pytest.mark.parametrize("target", ["host", *x86_targets()])
def test_on_this_machine(run_objects, small_net, small_object, target):
    runs_as_torch(run_objects, platform.machine(), small_object(target), small_net, images(3, 17, 11))


@pytest.mark.parametrize("target", ["aarch64-android", "aarch64-linux"])
def test_on_aarch64(run_objects, small_net, small_object, target):
    runs_as_torch(run_objects, "aarch64", small_object(target), small_net, images(3, 17, 11))


@pytest.mark.parametrize("network", ["mobilenet_v1_025", "mobilenet_v3_small"])
def test_mobile_networks_on_the_first_aarch64(run_objects, tmp_path, monkeypatch, network):
    """A Cortex-A53 has nothing but Armv8.0: every 64-bit Arm phone runs fp32 objects."""
    monkeypatch.setenv("QEMU_CPU", "cortex-a53")
    torch.manual_seed(0)
    model = build(network).eval()
    prune(model, Groups("4x1", unaligned="rows"), 0.9, budget="layer")
    x = images(3, 96, 72, count=1)
    files = export(model, (x[0],), tmp_path / "out", target="aarch64-android", name="net")
    runs_as_torch(run_objects, "aarch64", files, model, x)


def test_a_pruned_resnet20_on_aarch64(run_objects, tmp_path, shared_data):
    model = build("resnet20").eval()
    load_weights(model, shared_data / "cifar10_resnet" / "resnet20.safetensors")
    prune(model, Groups("4x1", unaligned="rows"), 0.9)
    x = images(3, 32, 32)
    files = export(model, (x[0],), tmp_path / "out", target="aarch64-android", name="resnet20")
    assert files.macs < files.dense_macs / 3
    runs_as_torch(run_objects, "aarch64", files, model, x)


def test_several_inputs_and_outputs(run_objects, two_inputs, tmp_path):
    a, b = torch.randn(1, 2, 6, 9), torch.randn(1, 1, 6, 9)
    files = export(two_inputs, (a, b), tmp_path / "out", name="two")
    ((image, means),) = run_objects(platform.machine(), [files], [[a.numpy(), b.numpy()]])
    want_image, want_means = two_inputs(a, b)
    assert close(image, want_image)
    assert close(means, want_means)


def test_two_networks_in_one_program(run_objects, small_net, small_object, tmp_path):
    torch.manual_seed(2)
    digits = digits_net().eval()
    x, y = torch.randn(1, 3, 17, 11), torch.randn(1, 1, 8, 8)
    both = [small_object("host"), export(digits, (y,), tmp_path / "digits", name="digits")]
    results = run_objects(platform.machine(), both, [[x.numpy(), y.numpy()]] * 2)
    for first, second in results:
        assert close(first, small_net(x))
        assert close(second, digits(y))


WASM_PROGRAM = """
import fs from "node:fs";
const [path, inputs, outputs, bytes] = [process.argv[2], ...process.argv.slice(3).map(Number)];
const module = await WebAssembly.compile(fs.readFileSync(path));
if (WebAssembly.Module.imports(module).length) throw new Error("imports");
const { memory, small_prepare, small_run, __heap_base } = new WebAssembly.Instance(module).exports;
const start = (__heap_base.value + 63) & ~63, workspace = start + (((inputs + outputs) * 4 + 63) & ~63);
const end = workspace + bytes;
memory.grow(Math.ceil(Math.max(0, end + 64 - memory.buffer.byteLength) / 65536));
new Uint8Array(memory.buffer, workspace).fill(255);
small_prepare(workspace);
const stdin = fs.readFileSync(0), results = [];
for (let at = 0; at < stdin.length; at += inputs * 4) {
  new Uint8Array(memory.buffer, start, inputs * 4).set(stdin.subarray(at, at + inputs * 4));
  small_run(start, start + inputs * 4, workspace);
  if (!new Uint8Array(memory.buffer, end).every((byte) => byte === 255)) throw new Error("beyond the workspace");
  results.push(Buffer.from(memory.buffer.slice(start + inputs * 4, start + (inputs + outputs) * 4)));
}
process.stdout.write(Buffer.concat(results));
"""


def runs_as_torch_in_webassembly(zig_tool, folder: Path, files, model, inputs: list[torch.Tensor]) -> None:
    """As `runs_as_torch`, for a network called "small" with one input and one output, under node."""
    node = shutil.which("node") or pytest.skip("needs node")
    linked, script = folder / "small.wasm", folder / "run.mjs"
    exports = [f"--export={name}" for name in ("__heap_base", "small_prepare", "small_run")]
    command = [*zig_tool, "wasm-ld", "--no-entry", "--export-memory", *exports, str(files.object), "-o", str(linked)]
    subprocess.run(command, check=True, timeout=300)
    script.write_text(WASM_PROGRAM)
    expected = [model(x) for x in (*inputs, inputs[0])]
    sizes = [str(number) for number in (inputs[0].numel(), expected[0].numel(), files.workspace_bytes)]
    stdin = b"".join(each.numpy().tobytes() for each in (*inputs, inputs[0]))
    done = subprocess.run([node, str(script), str(linked), *sizes], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    results = np.frombuffer(done.stdout, np.float32).reshape(len(expected), -1)
    for given, want in zip(results, expected, strict=True):
        assert close(given, want)
    assert np.array_equal(results[0], results[-1])


def test_as_webassembly(small_net, small_object, zig_tool, tmp_path):
    runs_as_torch_in_webassembly(zig_tool, tmp_path, small_object("wasm32"), small_net, images(3, 17, 11))


@pytest.fixture
def c_compiler() -> str:
    return shutil.which("cc") or pytest.skip("needs the C compiler cc")


def test_the_program_in_the_docs(c_compiler, tmp_path):
    torch.manual_seed(3)
    model = build("resnet20").eval()
    x = images(3, 32, 32)
    files = export(model, (x[0],), tmp_path / "out", name="resnet20")
    source = re.search(r"```c\n(.*?)```", DEPLOY_PAGE.read_text(), re.DOTALL).group(1)
    (files.object.parent / "main.c").write_text(source)
    command = re.search(r"```sh\n(cc .*)\n```", DEPLOY_PAGE.read_text()).group(1).split()
    assert command[0] == "cc"
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run([c_compiler, *strict, *command[1:]], cwd=files.object.parent, check=True)
    stdin = b"".join(each.numpy().tobytes() for each in x)
    done = subprocess.run([files.object.parent / "main"], input=stdin, capture_output=True, check=True)
    results = np.frombuffer(done.stdout, np.float32).reshape(3, 10)
    assert all(close(given, model(each)) for given, each in zip(results, x, strict=True))


@pytest.mark.parametrize("language", [["-std=c11"], ["-x", "c++", "-std=c++14"]])
def test_the_usage_in_the_header_compiles(c_compiler, two_inputs, tmp_path, language):
    example = (torch.randn(1, 2, 6, 9), torch.randn(1, 1, 6, 9))
    header = export(two_inputs, example, tmp_path / "out", name="two").header
    lines = header.read_text().split("*/")[0].split("Usage")[1].splitlines()[1:]
    source = "\n".join(line.removeprefix(" *").strip() for line in lines)
    if language[0] == "-x":
        if not shutil.which("c++"):
            pytest.skip("needs the C++ compiler c++")
        source = source.replace("static _Alignas", "alignas").replace("unsigned char", "static unsigned char")
    (tmp_path / "use.c").write_text(source)
    flags = [*language, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", str(header.parent)]
    subprocess.run([c_compiler, *flags, "-c", tmp_path / "use.c", "-o", tmp_path / "use.o"], check=True)
