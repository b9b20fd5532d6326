"""``flexgroup export`` writes an object and a header, and says what it wrote."""

from __future__ import annotations

from pathlib import Path


def test_json_names_the_files_and_their_figures(flexgroup, digits_weights, tmp_path):
    out = tmp_path / "out"
    arguments = ("--model", "digits_net", "--weights", digits_weights, "--target", "aarch64-android", "--out", out)
    document = flexgroup("export", *arguments, "--json").document
    assert Path(document["object"]) == out / "digits_net.o"
    assert Path(document["header"]) == out / "digits_net.h"
    assert sorted(path.name for path in out.iterdir()) == ["digits_net.h", "digits_net.o"]
    assert (document["target"], document["input_shapes"], document["output_shapes"]) == (
        "aarch64-android",
        [[1, 8, 8]],
        [[10]],
    )
    assert f"#define DIGITS_NET_WORKSPACE_BYTES {document['workspace_bytes']}\n" in (out / "digits_net.h").read_text()
    assert document["error"] < 1e-5


def test_the_users_own_network_under_a_name(flexgroup, my_nets, tmp_path):
    arguments = ("--model", f"{my_nets}:make", "--input", "1,1,8,8", "--out", tmp_path / "out", "--name", "mine")
    outcome = flexgroup("export", *arguments)
    assert outcome.status == 0
    assert "mine.o" in outcome.stdout
    assert "declares mine_prepare and mine_run" in outcome.stdout


def test_wrong_input_is_refused_and_nothing_is_written(flexgroup, digits_weights, my_nets, tmp_path):
    network = ("--model", "digits_net", "--weights", digits_weights, "--out", tmp_path / "out")
    assert "unknown target 'riscv'; known targets: host, " in flexgroup("export", *network, "--target", "riscv").reason
    assert "name 'a b' cannot begin C identifiers" in flexgroup("export", *network, "--name", "a b").reason
    own = ("--model", f"{my_nets}:make", "--out", tmp_path / "out")
    assert "give it, for example --input" in flexgroup("export", *own).reason
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_needs_force(flexgroup, digits_weights, tmp_path):
    arguments = ("export", "--model", "digits_net", "--weights", digits_weights, "--out", tmp_path)
    (tmp_path / "main.c").write_text("")
    assert "is not empty; name another folder, or write into it with force" in flexgroup(*arguments).reason
    assert flexgroup(*arguments, "--force").status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits_net.h", "digits_net.o", "main.c"]
