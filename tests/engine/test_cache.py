"""What is kept on disk is never wrong, never in the way, and never too much."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flexgroup.engine import _cache, _objects
from flexgroup.engine._cache import LARGEST, Cache, content_key, source_digest, this_cache
from flexgroup.kernels import ConvKernel, PeakKernel, host_target

HOST = host_target()
KERNELS = (ConvKernel("ring", 2, 3, False), ConvKernel("ring", 2, 3, True))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and nothing in memory."""
    monkeypatch.setenv("FLEXGROUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(_objects, "_RECENT", type(_objects._RECENT)())
    monkeypatch.setattr(_objects, "source_digest", lambda *_: "as they are")  # they may be edited meanwhile
    return tmp_path / "cache"


@pytest.fixture
def emitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the modules that LLVM compiles from now on."""
    names: list[str] = []
    text = _objects._text

    def note(module, machine):
        names.append(module.name)
        return text(module, machine)

    monkeypatch.setattr(_objects, "_text", note)
    return names


def forget_memory() -> None:
    _objects._RECENT.clear()


def test_what_was_put_is_what_one_gets(tmp_path):
    cache = Cache(tmp_path)
    assert cache.get("code", "key") is None
    cache.put("code", "key", b"content")
    assert cache.get("code", "key") == b"content"
    assert cache.get("plan", "key") is None
    cache.discard("code", "key")
    assert cache.get("code", "key") is None


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:10], lambda b: b"", lambda b: b[:-1] + b"\0"])
def test_a_damaged_entry_counts_as_absent(tmp_path, damage):
    cache = Cache(tmp_path)
    cache.put("code", "key", b"content")
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert cache.get("code", "key") is None
    cache.put("code", "key", b"content")
    assert cache.get("code", "key") == b"content"


def test_the_least_recently_used_entries_go_first(tmp_path):
    cache = Cache(tmp_path, limit=3000)
    for i in range(4):
        cache.put("code", str(i), bytes(900))
        os.utime(tmp_path / f"code-{i}.entry", (i, i))
    assert cache.get("code", "0") is not None  # used now
    cache.trim()
    assert [cache.get("code", str(i)) is not None for i in range(4)] == [True, False, True, True]


def test_an_entry_that_would_push_out_the_others_is_not_kept(tmp_path):
    Cache(tmp_path).put("plan", "large", bytes(LARGEST + 1))
    Cache(tmp_path, limit=10).put("plan", "small", bytes(11))
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_behind_is_removed_after_an_hour(tmp_path):
    old, new = tmp_path / "a.partial", tmp_path / "b.partial"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 4000,) * 2)
    Cache(tmp_path).trim()
    assert list(tmp_path.iterdir()) == [new]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    Cache(tmp_path).put("code", "key", b"content")
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_the_users_or_the_platforms(tmp_path, monkeypatch):
    monkeypatch.setenv("FLEXGROUP_CACHE", str(tmp_path / "mine"))
    assert this_cache().folder == tmp_path / "mine"
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("FLEXGROUP_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert this_cache().folder == tmp_path / "xdg" / "flexgroup"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/paths/do/not/count")
    assert this_cache().folder == tmp_path / ".cache" / "flexgroup"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert this_cache().folder == tmp_path / "Library" / "Caches" / "flexgroup"


@pytest.mark.parametrize("value", ["off", "OFF"])
def test_off_turns_it_off(monkeypatch, value):
    monkeypatch.setenv("FLEXGROUP_CACHE", value)
    assert this_cache().folder is None


def test_a_folder_that_cannot_be_made_means_no_cache(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLEXGROUP_CACHE", str(tmp_path / "file" / "below"))
    assert this_cache().folder is None
    cache = Cache(tmp_path / "absent")
    cache.put("code", "key", b"content")
    cache.trim()
    cache.discard("code", "key")
    assert cache.get("code", "key") is None


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    monkeypatch.setenv("FLEXGROUP_CACHE", str(tmp_path))
    assert this_cache().folder is None


def test_a_key_depends_on_every_part_and_on_where_parts_end():
    assert len({content_key(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""])}) == 4


def test_the_digest_of_sources_covers_every_file(tmp_path, monkeypatch):
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    monkeypatch.setattr(_cache, "__file__", str(tmp_path / "engine" / "_cache.py"))

    def digest(**files: str) -> str | None:
        source_digest.cache_clear()
        for name, text in files.items():
            (kernels / f"{name}.py").write_text(text)
            os.utime(kernels / f"{name}.py", (0, 0))
        return source_digest("kernels")

    try:
        assert digest() is None  # nothing there: perhaps not installed as files
        seen = [digest(a="1"), digest(a="2"), digest(a="2", b=""), digest(a="2", b="3")]
        assert None not in seen
        assert len(set(seen)) == 4
        os.utime(kernels / "b.py")
        assert digest() is None  # changed while this process ran: who knows which of them it runs
    finally:
        source_digest.cache_clear()


def test_a_kernel_is_compiled_once_for_all_processes(folder, emitted):
    _objects.load(KERNELS, HOST)
    assert emitted == ["runner", *(kernel.name for kernel in KERNELS)]
    _objects.load(KERNELS, HOST)  # from memory
    forget_memory()
    _, addresses = _objects.load(KERNELS[::-1], HOST)  # from disk
    assert len(emitted) == 3
    assert all(addresses[name] for name in ("run", "submit", "work", *(kernel.name for kernel in KERNELS)))


def test_a_damaged_object_is_compiled_again_and_replaced(folder, emitted):
    _objects.load(KERNELS, HOST)
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-8])
    forget_memory()
    _objects.load(KERNELS, HOST)
    assert len(emitted) == 6
    forget_memory()
    _objects.load(KERNELS, HOST)
    assert len(emitted) == 6


def test_without_a_folder_code_is_made_every_time_a_process_starts(folder, emitted, monkeypatch):
    monkeypatch.setenv("FLEXGROUP_CACHE", "off")
    for _ in range(2):
        forget_memory()
        _objects.load(KERNELS, HOST)
    assert len(emitted) == 6
    assert not folder.exists()


def test_the_key_of_a_kernel_covers_its_value_the_target_the_sources_and_the_version(monkeypatch):
    kernel = KERNELS[0]
    given = [
        _objects.object_key(part, target, sources)
        for part in (kernel, KERNELS[1], replace(kernel, tile=4), PeakKernel(3))
        for target in (HOST, replace(HOST, cpu="x86-64"), replace(HOST, features=""), replace(HOST, vector_bytes=16))
        for sources in ("a", "b")
    ]
    assert len(set(given)) == len(given)
    monkeypatch.setattr("flexgroup.__version__", "0.0.0")
    assert _objects.object_key(kernel, HOST, "a") != given[0]


def _use(folder: str, seed: int) -> bool:
    """What several processes do at once: write and read the same entries, and trim."""
    cache = Cache(Path(folder), limit=100_000)
    for i in range(300):
        number = (i * (seed * 2 + 1)) % 20
        content = bytes([number]) * 10_000
        found = cache.get("code", str(number))
        if found not in (None, content):
            return False
        cache.put("code", str(number), content)
        if i % 10 == seed:
            cache.trim()
    return True


def test_processes_that_use_the_same_folder_at_once_do_not_disturb_each_other(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert all(pool.starmap(_use, [(str(tmp_path), seed) for seed in range(4)]))
    assert all(file.suffix == ".entry" for file in tmp_path.iterdir())


COMPILE = """
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 1)).eval()
import flexgroup
print(float(flexgroup.compile(model, (torch.ones(1, 3, 9, 9),))(torch.ones(1, 3, 9, 9)).sum()))
"""


def test_processes_that_compile_the_same_network_at_once_all_get_it(folder):
    results = set()
    for _ in range(2):  # cold, then warm
        running = [subprocess.Popen([sys.executable, "-c", COMPILE], stdout=subprocess.PIPE) for _ in range(3)]
        results |= {process.communicate()[0] for process in running}
        assert all(process.returncode == 0 for process in running)
    assert len(results) == 1
    assert list(folder.glob("code-*.entry"))
