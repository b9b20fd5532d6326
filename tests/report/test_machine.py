"""What a report says about the machine."""

from __future__ import annotations

import platform
import socket
from pathlib import Path

from flexgroup.report import available_cores, cpu_model, this_machine


def test_the_machine_has_a_class_and_versions_but_no_name() -> None:
    machine = this_machine(["numpy", "no-such-package"])
    assert machine.cores == available_cores() >= 1
    assert set(machine.versions) == {"flexgroup", "python", "numpy"}
    assert machine.system == f"{platform.system()} {platform.machine()}"
    assert socket.gethostname() not in str(machine)


def test_the_processor_is_named_with_its_widest_vectors(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nmodel name : Fast CPU @ 2GHz\nflags : sse4_2 avx2 avx512f\n\nprocessor : 1\n")
    assert cpu_model(file) == "Fast CPU @ 2GHz, AVX-512"
    file.write_text("processor : 0\nFeatures : fp asimd\n")
    assert cpu_model(file) == f"{platform.machine()}, NEON"


def test_without_cpuinfo_there_is_still_an_answer(tmp_path: Path) -> None:
    assert cpu_model(tmp_path / "absent")
