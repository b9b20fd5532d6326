"""Small networks, C toolchains, and programs that run exported objects without any library."""

from __future__ import annotations

import functools
import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flexgroup import Groups
from flexgroup.deploy import ExportedFiles, export
from flexgroup.pruning import prune

# Reads inputs from stdin, writes outputs to stdout. The workspace is filled with NaNs before it is prepared, and the
# bytes behind it must not change. Linux system calls, so that the object is linked with nothing else.
PROGRAM = """
#if defined(__aarch64__)
enum { READ = 63, WRITE = 64, EXIT = 93 };
static long call(long number, long a, const void *b, long c) {
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register const void *x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
}
#else
enum { READ = 0, WRITE = 1, EXIT = 60 };
static long call(long number, long a, const void *b, long c) {
    long result = number;
    __asm__ volatile("syscall" : "+a"(result) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}
#endif
static int fill(void *to, long size) {
    for (long done = 0; done < size;) {
        long count = call(READ, 0, (char *)to + done, size - done);
        if (count <= 0) return 0;
        done += count;
    }
    return 1;
}
static void empty(const void *from, long size) {
    for (long done = 0; done < size;) {
        long count = call(WRITE, 1, (const char *)from + done, size - done);
        if (count <= 0) call(EXIT, 2, 0, 0);
        done += count;
    }
}
static void poison(volatile unsigned char *at, long size) {
    for (long i = 0; i < size; i++) at[i] = 0xFF;
}
static void check_poison(volatile unsigned char *at, long size) {
    for (long i = 0; i < size; i++) if (at[i] != 0xFF) call(EXIT, 3, 0, 0);
}
__attribute__((noreturn, used)) static void program(void) {
@prepare@
    for (;;) {
@run@
    }
}
#if defined(__aarch64__)
__asm__(".globl _start\\n_start: bl program\\n");
#else
__asm__(".globl _start\\n_start: call program\\n");
#endif
"""


class SmallNet(nn.Module):
    """Odd sizes, a stride, a residual, pools and a classifier: every border and remainder that kernels have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 10, 3, padding=1)
        self.down = nn.Conv2d(10, 13, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(13)
        self.branch = nn.Conv2d(13, 13, 5, padding=2)
        self.pool = nn.MaxPool2d(2)
        self.classes = nn.Linear(13, 7)

    def forward(self, x):
        x = torch.relu(self.down(torch.relu(self.first(x))))
        x = torch.relu(self.norm(self.branch(x)) + x)
        return self.classes(self.pool(x).mean((2, 3)))


class TwoInputs(nn.Module):
    """Two images in, an image and a vector out."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 5, 3, padding=1)
        self.right = nn.Conv2d(1, 5, 1)

    def forward(self, a, b):
        both = self.left(a) + self.right(b)
        return both, torch.relu(both).mean((2, 3))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_net() -> nn.Module:
    torch.manual_seed(0)
    model = SmallNet().eval()
    model.norm.running_mean.uniform_(-0.5, 0.5)
    prune(model, Groups("4x1", unaligned="rows"), 0.75, budget="global", targets=["down", "branch"])
    return model


@pytest.fixture(scope="session")
def small_object(small_net, tmp_path_factory) -> Callable[[str], ExportedFiles]:
    """The small network as ``small``, exported for a target; once for all tests."""

    @functools.cache
    def make(target: str) -> ExportedFiles:
        return export(
            small_net, (torch.randn(1, 3, 17, 11),), tmp_path_factory.mktemp(target), target=target, name="small"
        )

    return make


@pytest.fixture
def two_inputs() -> nn.Module:
    torch.manual_seed(1)
    return TwoInputs().eval()


def zig() -> list[str] | None:
    return [sys.executable, "-m", "ziglang"] if importlib.util.find_spec("ziglang") else None


@pytest.fixture
def zig_tool() -> list[str]:
    """The command of Zig's toolchain, which can link for every target."""
    return zig() or pytest.skip("needs the package ziglang")


def _linker(machine: str) -> Callable[[Path, list[Path], Path], None]:
    """Compiles one C file for Linux on ``machine`` and links it with objects, without a C library."""
    native = platform.machine() == machine
    compiler = shutil.which("cc") if native else shutil.which(f"{machine}-linux-gnu-gcc")
    plain = ["-std=c11", "-O1", "-ffreestanding", "-fno-stack-protector", "-fno-builtin"]

    def with_compiler(source: Path, objects: list[Path], program: Path) -> None:
        run([compiler, *plain, "-nostdlib", "-static", source, *objects, "-o", program])

    def with_zig(source: Path, objects: list[Path], program: Path) -> None:
        made = program.with_suffix(".main.o")
        run([*zig(), "cc", "-target", f"{machine}-linux-musl", *plain, "-c", source, "-o", made])
        run([*zig(), "ld.lld", "-static", made, *objects, "-o", program])

    if compiler:
        return with_compiler
    if zig():
        return with_zig
    pytest.skip(f"needs {'cc' if native else f'{machine}-linux-gnu-gcc'} or the package ziglang")


def run(command: list[object], data: bytes = b"") -> bytes:
    done = subprocess.run([str(part) for part in command], input=data, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, (done.returncode, done.stderr.decode(errors="replace"))
    return done.stdout


@pytest.fixture
def run_objects(tmp_path):
    """Link exported networks into one program and run it on ``rounds`` of inputs; outputs in the same order.

    Skips where there is no toolchain for the machine or no way to run its programs.
    """

    def run_them(machine: str, networks: list[ExportedFiles], rounds: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
        if platform.system() != "Linux":
            pytest.skip("the test program makes Linux system calls")
        emulator: list[object] = []
        if platform.machine() != machine:
            emulator = [shutil.which(f"qemu-{machine}") or pytest.skip(f"needs qemu-{machine}")]
        link = _linker(machine)
        source, program = tmp_path / "main.c", tmp_path / f"program-{machine}"
        source.write_text(_program(networks))
        link(source, [files.object for files in networks], program)
        stdin = b"".join(array.tobytes() for inputs in rounds for array in inputs)
        numbers = np.frombuffer(run([*emulator, program], stdin), np.float32)
        shapes = [shape for _ in rounds for files in networks for shape in files.output_shapes]
        sizes = [int(np.prod(shape)) for shape in shapes]
        assert len(numbers) == sum(sizes)
        parts = np.split(numbers, np.cumsum(sizes)[:-1])
        arrays = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        each = len(arrays) // len(rounds)
        return [arrays[i : i + each] for i in range(0, len(arrays), each)]

    return run_them


def _program(networks: list[ExportedFiles]) -> str:
    """The program with ``networks`` in it: a round reads all inputs of a network, then runs it, one after the other."""
    head, prepare, rounds = [f'#include "{files.header}"' for files in networks], [], []
    for files in networks:
        name, upper = files.name, files.name.upper()
        space = f"{name}_space"
        head.append(
            f"static _Alignas({upper}_WORKSPACE_ALIGNMENT) unsigned char {space}[{upper}_WORKSPACE_BYTES + 64];"
        )
        prepare += [f"poison({space}, sizeof {space});", f"{name}_prepare({space});"]
        ports = [*_ports("input", len(files.input_shapes)), *_ports("output", len(files.output_shapes))]
        head += [f"static float {name}_{port}[{upper}_{port.upper()}_ELEMENTS];" for port in ports]
        reads = [port for port in ports if port.startswith("input")]
        rounds += [f"if (!fill({name}_{port}, sizeof {name}_{port})) call(EXIT, 0, 0, 0);" for port in reads]
        rounds.append(f"{name}_run({', '.join(f'{name}_{port}' for port in ports)}, {space});")
        rounds.append(f"check_poison({space} + {upper}_WORKSPACE_BYTES, 64);")
        rounds += [f"empty({name}_{port}, sizeof {name}_{port});" for port in ports if port.startswith("output")]
    body = PROGRAM.replace("@prepare@", "\n".join(prepare)).replace("@run@", "\n".join(rounds))
    return "\n".join(head) + body


def _ports(word: str, count: int) -> list[str]:
    return [word] if count == 1 else [f"{word}{i}" for i in range(count)]
