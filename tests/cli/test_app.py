"""The command line starts quickly, explains itself, and refuses wrong input in one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

import flexgroup as package

COMMANDS = ("demo", "select", "prune", "eval", "bench", "profile", "inspect", "export")


def test_help_names_every_command(flexgroup):
    outcome = flexgroup("--help")
    assert outcome.status == 0
    for command in COMMANDS:
        assert f" {command} " in outcome.stdout


def test_no_command_shows_the_help(flexgroup):
    assert flexgroup().stdout == flexgroup("--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json_and_an_example(flexgroup, command):
    outcome = flexgroup(command, "--help")
    assert outcome.status == 0
    assert "--json" in outcome.stdout
    assert f"flexgroup {command}" in outcome.stdout.split("Example")[1]


def test_version(flexgroup):
    assert flexgroup("--version").stdout == f"flexgroup {package.__version__}\n"


def test_help_imports_neither_torch_nor_numba_and_warns_of_nothing():
    code = (
        "import sys; from flexgroup.cli import main; main(['--help']); main(['prune', '--help']);"
        "sys.exit(bool({'torch', 'numba', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["prun"], "No such command 'prun'"),
        (["prune"], "Missing option"),
        (["eval", "--model", "resnet20"], "Missing option '--data'"),
        (["inspect"], "Missing argument 'FILE'"),
        (["bench", "--model", "resnet20", "--colour", "red"], "No such option: --colour"),
        (
            ["prune", "--model", "a", "--data", "digits", "--out", "o", "--sparsity", "most"],
            "Invalid value for '--sparsity'",
        ),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_line(flexgroup, arguments, reason):
    assert reason in flexgroup(*arguments).reason


def test_a_reason_is_one_line_and_a_status_for_the_shell():
    code = "import sys; from flexgroup.cli import main; sys.exit(main(['inspect', 'absent.safetensors']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "flexgroup: weights absent.safetensors: there is no such file; check the path\n"


def test_a_defect_keeps_its_traceback(flexgroup, my_nets):
    with pytest.raises(ZeroDivisionError, match="a defect"):
        flexgroup("eval", "--model", f"{my_nets}:defective", "--data", "digits")


def test_an_interrupt_ends_with_status_130(flexgroup, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flexgroup.zoo.build", interrupt)
    outcome = flexgroup("eval", "--model", "resnet20", "--data", "digits")
    assert (outcome.status, outcome.stdout, outcome.stderr.strip()) == (130, "", "flexgroup: stopped")
