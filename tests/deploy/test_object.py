"""What is in an exported object: two functions, read-only data, and nothing that is missing."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from dataclasses import replace as with_fields

import pytest
import torch

from flexgroup.deploy import _export, export
from flexgroup.deploy._object import compile_object
from flexgroup.engine import plan_graph
from flexgroup.engine._objects import assembly
from flexgroup.graph import from_torch, optimize
from flexgroup.kernels import F32, ConvKernel, KernelSpec, Target, host_target
from flexgroup.kernels.conv import largest_tile
from flexgroup.kernels.depthwise import DepthwiseKernel
from flexgroup.kernels.target import F16, TARGETS

ELF = [name for name, target in TARGETS.items() if "linux" in target.triple]
GLOBAL, UNDEFINED = 1, 0
WRITABLE, IN_MEMORY = 1, 2  # section flags


@dataclass(frozen=True)
class Section:
    name: str
    flags: int
    size: int
    align: int


@dataclass(frozen=True)
class Symbol:
    name: str
    binding: int
    section: int


def read_elf(data: bytes) -> tuple[list[Section], list[Symbol]]:
    """Sections and symbols of a 64-bit little-endian ELF object (System V ABI, chapter 4)."""
    assert data[:6] == b"\x7fELF\x02\x01"
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    raw = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
    text = [data[offset : offset + length] for _, _, _, _, offset, length, *_ in raw]

    def string(section: int, at: int) -> str:
        return text[section][at : text[section].index(b"\0", at)].decode()

    sections = [Section(string(names, r[0]), r[2], r[5], r[8]) for r in raw]
    symbols = []
    for i, (_, kind, *_, link, _, _, _) in enumerate(raw):
        if kind == 2:  # the symbol table; its names are in the section that it links to
            for at in range(24, len(text[i]), 24):  # the first entry is empty
                name, info, _, section, _, _ = struct.unpack_from("<IBBHQQ", text[i], at)
                symbols.append(Symbol(string(link, name), info >> 4, section))
    return sections, symbols


@pytest.mark.parametrize("target", ELF)
def test_two_functions_are_visible_and_no_symbol_is_missing(small_object, target):
    _, symbols = read_elf(small_object(target).object.read_bytes())
    assert {symbol.name for symbol in symbols if symbol.section == UNDEFINED} == set()
    assert {symbol.name for symbol in symbols if symbol.binding == GLOBAL} == {"small_prepare", "small_run"}


@pytest.mark.parametrize("target", ELF)
def test_no_memory_of_the_object_is_writable_and_constants_are_aligned(small_object, target):
    sections, _ = read_elf(small_object(target).object.read_bytes())
    in_memory = [section for section in sections if section.flags & IN_MEMORY and section.size]
    assert [section.name for section in in_memory if section.flags & WRITABLE] == []
    assert max(section.align for section in in_memory if section.name.startswith(".rodata")) >= 64


def test_an_ios_object_is_mach_o_and_misses_no_symbol(small_object):
    data = small_object("aarch64-ios").object.read_bytes()
    magic, processor, _, kind, commands, _, _, _ = struct.unpack_from("<8I", data)
    assert (magic, processor, kind) == (0xFEEDFACF, 0x0100000C, 1)  # 64-bit, arm64, relocatable
    at, visible, undefined = 32, set(), set()
    for _ in range(commands):
        command, size = struct.unpack_from("<2I", data, at)
        if command == 2:  # LC_SYMTAB
            symbols, count, strings, _ = struct.unpack_from("<4I", data, at + 8)
            for i in range(count):
                name, kind, *_ = struct.unpack_from("<IBBHQ", data, symbols + 16 * i)
                text = data[strings + name : data.index(b"\0", strings + name)].decode()
                if kind & 0x01:  # external
                    (undefined if kind & 0x0E == 0 else visible).add(text)
        at += size
    assert (visible, undefined) == ({"_small_prepare", "_small_run"}, set())


def test_the_same_network_gives_the_same_bytes(small_net, tmp_path):
    first, second = (
        export(small_net, (torch.ones(1, 3, 17, 11),), tmp_path / folder, target="aarch64-linux")
        for folder in ("one", "two")
    )
    assert first.object.read_bytes() == second.object.read_bytes()
    assert first.header.read_bytes() == second.header.read_bytes()


def test_the_batch_of_the_example_does_not_matter(small_net, tmp_path):
    one = export(small_net, (torch.ones(1, 3, 17, 11),), tmp_path / "one")
    five = export(small_net, (torch.ones(5, 3, 17, 11),), tmp_path / "five")
    assert one.object.read_bytes() == five.object.read_bytes()


def test_code_for_another_processor_is_checked_before_it_is_written(small_net, tmp_path, monkeypatch):
    """The check runs the exported plan itself: damage its constants, and nothing is written."""

    def damaged(graph, target, **options):
        plan = plan_graph(graph, target, **options)
        return with_fields(plan, constants=plan.constants * 0)

    monkeypatch.setattr(_export, "plan_graph", damaged)
    with pytest.raises(ValueError, match=r"compiled for aarch64-android differs from torch .* nothing was written"):
        export(small_net, (torch.ones(1, 3, 17, 11),), tmp_path / "out", target="aarch64-android")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_for_several_threads_is_refused(small_net):
    plan = plan_graph(optimize(from_torch(small_net, (torch.ones(1, 3, 17, 11),))), host_target(), threads=2)
    with pytest.raises(ValueError, match="for 2 threads cannot be exported"):
        compile_object(plan, "small")


def inner_loops(kernel: KernelSpec, target: Target) -> list[str]:
    """The assembly of the kernel's blocks that multiply."""
    blocks = re.split(r"^\.L\w+:", assembly((kernel,), target), flags=re.MULTILINE)
    return [block for block in blocks if "fmla" in block]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("element", [F32, F16])
@pytest.mark.parametrize(
    ("form", "rows"), [("ring", 2), ("ring", 4), ("ring", 8), ("strip", 1), ("strip", 4), ("dense", 4)]
)
def test_inner_loops_for_arm_multiply_by_a_weight_in_a_lane_and_touch_no_stack(form, rows, element, ahead):
    target = TARGETS["aarch64-android"]
    kernel = ConvKernel(form, rows, largest_tile(rows, target), residual=True, element=element, ahead=ahead)
    loops = inner_loops(kernel, target)
    assert len(loops) == (rows if form == "ring" else 1)
    lanes = {F32: r"4s, v\d+\.4s, v\d+\.s\[", F16: r"8h, v\d+\.8h, v\d+\.h\["}[element]
    for loop in loops:
        assert loop.count("fmla") == rows * kernel.tile
        assert len(re.findall(rf"fmla\tv\d+\.{lanes}", loop)) >= rows * kernel.tile // 2
        assert "[sp" not in loop


def test_code_for_little_cores_arranges_two_rows_of_a_window_together_and_clamps_in_two_instructions():
    """All inputs are loaded before the first sum is stored: little cores would wait for them."""
    loops = inner_loops(DepthwiseKernel("down", 3, 3, tile=2), TARGETS["aarch64-android"])
    (loop,) = [block for block in loops if block.count("fmla") == 2 * 2 * 9]
    assert loop.count("fmax") == loop.count("fmin") == 2 * 2
    assert "fcmg" not in loop
    assert "[sp" not in loop
    assert not re.search(r"\tldp\tq", loop)  # two whole vectors at once are slow there
    kinds = [line.split()[0] for line in loop.splitlines() if line.startswith(("\tld", "\tst"))]
    first_store = next(i for i, kind in enumerate(kinds) if kind.startswith("st"))
    assert len(kinds) - first_store <= 4 + 2, kinds  # the stores, and two loads of the mask


@pytest.mark.parametrize("form", ["down", "along"])
def test_strided_windows_for_arm_take_their_third_column_from_the_next_outputs(form):
    """Of every input row both vectors are loaded and split once, and one number more."""
    kernel = DepthwiseKernel(form, 3, 3, (2, 2), tile=2, rows=2 if form == "along" else 1, border=False)
    (loop,) = [block for block in inner_loops(kernel, TARGETS["aarch64-android"]) if block.count("fmla") == 2 * 2 * 9]
    rows = 4 if form == "down" else 5  # two new ones an output row; along, the first is not kept
    assert len(re.findall(r"\tld1r", loop)) == rows
    assert len(re.findall(r"\text\t", loop)) == 2 * rows
    numbers = 8 * len(re.findall(r"\tld2", loop)) + 4 * len(re.findall(r"\tldu?r\tq", loop))
    assert numbers == rows * 2 * 8, "no mask, and nothing twice"
