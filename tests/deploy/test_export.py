"""`export` writes two files or, for wrong input, nothing; the header tells the truth."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import flexgroup
from flexgroup import FlexgroupError, export
from flexgroup.kernels.target import TARGETS

EXAMPLE = (torch.ones(1, 4, 5, 6),)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU())


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def defines(header: str) -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"#define (\w+) (\d+)$", header, re.MULTILINE)}


def test_the_header_says_which_output_is_which_of_a_dict(out):
    class Named(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"depth": torch.relu(x), "mask": torch.sigmoid(x)}

    text = export(Named(), EXAMPLE, out, name="net").header.read_text()
    assert "output0    float[4][5][6] (channels, height, width): 'depth' of the module's dict" in text
    assert "output1    float[4][5][6] (channels, height, width): 'mask' of the module's dict" in text


def test_two_files_in_a_new_folder(net, tmp_path):
    files = export(net, EXAMPLE, tmp_path / "new" / "out", target="aarch64-android", name="net")
    assert (files.object.name, files.header.name) == ("net.o", "net.h")
    assert sorted(path.name for path in (tmp_path / "new").rglob("*")) == ["net.h", "net.o", "out"]


def test_the_header_states_sizes_shapes_and_figures(net, out):
    files = export(net, EXAMPLE, out, target="aarch64-android", name="net")
    text = files.header.read_text()
    assert defines(text) == {
        "NET_INPUT_ELEMENTS": 4 * 5 * 6,
        "NET_OUTPUT_ELEMENTS": 3 * 5 * 6,
        "NET_WORKSPACE_BYTES": files.workspace_bytes,
        "NET_WORKSPACE_ALIGNMENT": 64,
    }
    assert "void net_prepare(void *workspace);" in text
    assert "void net_run(const float *input, float *output, void *workspace);" in text
    for fact in (
        f"flexgroup {flexgroup.__version__}",
        "float[4][5][6] (channels, height, width)",
        "NCHW float32",
        "aarch64-android",
        "threads    one",
        f"{3 * 4 * 5 * 6:,} with no zero skipped",
        f"{files.constant_bytes:,} bytes",
    ):
        assert fact in text


def test_ports_are_numbered_where_there_are_several(two_inputs, out):
    files = export(two_inputs, (torch.ones(1, 2, 6, 9), torch.ones(1, 1, 6, 9)), out, name="two")
    text = files.header.read_text()
    parameters = "const float *input0, const float *input1, float *output0, float *output1, void *workspace"
    assert f"void two_run({parameters});" in text
    assert (defines(text)["TWO_INPUT1_ELEMENTS"], defines(text)["TWO_OUTPUT1_ELEMENTS"]) == (54, 5)


def test_an_unknown_target_is_refused_with_the_list(net, out):
    with pytest.raises(FlexgroupError, match="unknown target 'z80'; known targets: host, ") as refused:
        export(net, EXAMPLE, out, target="z80")
    assert all(name in str(refused.value) for name in ("aarch64-android", "aarch64-ios", "wasm32", *TARGETS))
    assert not out.exists()


@pytest.mark.parametrize("name", ["", "7up", "my net", "a-b", "../x", "_reserved", "ü", "x" * 65])
def test_a_name_that_c_does_not_allow_is_refused(net, out, name):
    with pytest.raises(FlexgroupError, match=r"cannot begin C identifiers; use up to 64 letters"):
        export(net, EXAMPLE, out, name=name)
    assert not out.exists()


def test_a_model_that_cannot_be_compiled_leaves_nothing(out):
    with pytest.raises(FlexgroupError, match="fft"):
        export(type("Fft", (nn.Module,), {"forward": lambda self, x: torch.fft.fft2(x).real})(), EXAMPLE, out)
    assert not out.exists()


def test_a_folder_with_files_needs_force_and_keeps_what_is_not_ours(net, out):
    out.mkdir()
    (out / "main.c").write_text("int main;")
    (out / "network.h").write_text("old")
    with pytest.raises(FlexgroupError, match=r"out is not empty; name another folder, or write into it with force"):
        export(net, EXAMPLE, out)
    assert (out / "network.h").read_text() == "old"
    export(net, EXAMPLE, out, force=True)
    assert "network_run" in (out / "network.h").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["main.c", "network.h", "network.o"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_empty_folder_is_taken_and_a_file_is_not(net, tmp_path):
    (tmp_path / "empty").mkdir()
    assert export(net, EXAMPLE, tmp_path / "empty").object.exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FlexgroupError, match="file is a file; name a folder"):
        export(net, EXAMPLE, tmp_path / "file", force=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_refused(net, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FlexgroupError, match=r"cannot be made: .*; name another folder"):
        export(net, EXAMPLE, tmp_path / "file" / "out")


def test_exporting_changes_neither_the_model_nor_its_mode(net, out):
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    export(net, EXAMPLE, out, target="aarch64-linux")
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_compiling_for_another_architecture_after_an_export_is_an_error_not_a_crash(net, out):
    export(net, EXAMPLE, out, target="wasm32")
    with pytest.raises(FlexgroupError, match=r"target wasm32 is wasm32 code, which this .* machine cannot run"):
        flexgroup.compile(net, EXAMPLE, target="wasm32")
