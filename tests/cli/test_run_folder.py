"""A run's folder is complete under its own name, or kept under another."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flexgroup import FlexgroupError
from flexgroup.cli._run_folder import check_free, run_folder


def write(name: str, out: Path, *, force: bool, then: Callable[[], object]) -> None:
    """A run that writes one file; if ``then`` gives an exception, it fails with that."""
    with run_folder(out, force) as partial:
        (partial / name).write_text("{}")
        result = then()
        if isinstance(result, BaseException):
            raise result


def test_the_folder_appears_at_the_end(tmp_path):
    out = tmp_path / "deep" / "run"
    with run_folder(out, force=False) as partial:
        assert partial.name == "run.partial"
        assert not out.exists()
        (partial / "run.json").write_text("{}")
    assert os.listdir(tmp_path / "deep") == ["run"]
    assert os.listdir(out) == ["run.json"]


def test_a_failed_run_is_kept_beside_and_the_old_one_stays(tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text("old")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            write("metrics.jsonl", out, force=True, then=KeyboardInterrupt)
    assert sorted(os.listdir(tmp_path)) == ["run", "run.partial", "run.partial-2"]
    assert (out / "run.json").read_text() == "old"
    kept = tmp_path / "run.partial-2"
    assert f"did not finish; what there is of it is in {kept}" in capsys.readouterr().err


def test_a_run_that_fails_before_it_writes_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), run_folder(tmp_path / "run", force=False):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


def test_force_replaces_the_whole_run(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.jsonl").write_text("old")
    with run_folder(out, force=True) as partial:
        (partial / "run.json").write_text("new")
    assert os.listdir(tmp_path) == ["run"]
    assert os.listdir(out) == ["run.json"]


def test_an_existing_folder_needs_force(tmp_path):
    with pytest.raises(FlexgroupError, match=r"exists; give --force to replace it, or name another folder"):
        check_free(tmp_path, force=False)


def test_force_never_replaces_what_is_not_a_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FlexgroupError, match=r"holds 'thesis.tex', which is not part of a run; it is not replaced"):
        check_free(tmp_path, force=True)
    with pytest.raises(FlexgroupError, match=r"thesis.tex is a file; name a folder"):
        check_free(tmp_path / "thesis.tex", force=True)


def test_what_appears_in_the_meantime_is_not_replaced(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(FlexgroupError, match="exists"):
        write("run.json", out, force=False, then=out.mkdir)
    assert sorted(os.listdir(tmp_path)) == ["run", "run.partial"]


def test_an_impossible_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FlexgroupError, match=r"cannot be made: .*; name another folder"),
        run_folder(tmp_path / "file" / "run", force=False),
    ):
        pass
