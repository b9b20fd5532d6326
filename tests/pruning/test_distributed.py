"""Two processes end with the weights of one, on every rank the same, whether parameters are whole or sharded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from flexgroup import FlexgroupError
from flexgroup.pruning import finetune
from flexgroup.pruning._distributed import from_first_rank, mean_over_ranks, shared_like, sum_over_ranks, whole

PROGRAM = Path(__file__).with_name("distributed_training.py")
KINDS = ("whole", "accumulated", "resumed", "sharded")
# Torch's own threads abort a process once in some dozen launches; that is not what is tested here.
ABORTED, ATTEMPTS = "terminate called without an active exception", 3


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> Path:
    """A folder ``one`` from one process and a folder ``two`` from two, as the program leaves them."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("distributed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher, kinds in (("one", [], ["whole"]), ("two", torchrun, KINDS)):
        command = [sys.executable, *launcher, str(PROGRAM), str(folder / name), *kinds]
        for _ in range(ATTEMPTS):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir()
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if ABORTED not in done.stderr:
                break
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_rank_ends_with_the_same_bits_and_with_the_weights_of_one_process(ended: Path, kind: str) -> None:
    one = load_file(ended / "one" / "whole-0.safetensors")
    first, second = (load_file(ended / "two" / f"{kind}-{rank}.safetensors") for rank in (0, 1))
    assert list(first) == list(second) == list(one)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, tensor in one.items():
        if tensor.dtype == torch.bool:
            assert torch.equal(first[name], tensor), "the pattern"
        else:
            assert torch.allclose(first[name], tensor, atol=1e-6)
    assert any(tensor.dtype == torch.bool and not tensor.all() for tensor in one.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_rank_has_the_history_of_one_process(ended: Path, kind: str) -> None:
    one = json.loads((ended / "one" / "whole-0.json").read_text())
    for rank in (0, 1):
        two = json.loads((ended / "two" / f"{kind}-{rank}.json").read_text())
        assert two["sparsity"] == one["sparsity"] > 0.6
        for ours, theirs in zip(two["epochs"], one["epochs"], strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
            assert {key: ours[key] for key in ours if key not in ("loss", "seconds")} == {
                key: theirs[key] for key in theirs if key not in ("loss", "seconds")
            }


def test_only_the_first_process_writes_metrics_and_checkpoints(ended: Path) -> None:
    lines = (ended / "two" / "metrics-resumed.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert len(os.listdir(ended / "two" / "checkpoints" / "resumed")) == 4


def test_a_batch_that_cannot_be_shared_out_is_refused(images, labels, make_net) -> None:
    text = r"a step has 24 images, which 1 process with accumulate=5 cannot share out evenly; .* a multiple of 5"
    with pytest.raises(FlexgroupError, match=text):
        finetune(make_net(), images, labels, images, labels, epochs=1, batch_size=24, accumulate=5)


def test_in_one_process_nothing_is_gathered_averaged_or_copied() -> None:
    tensor = torch.randn(3)
    assert whole(tensor) is mean_over_ranks(tensor) is sum_over_ranks(tensor) is shared_like(tensor, tensor) is tensor
    assert from_first_rank({"x": tensor})["x"] is tensor


def test_a_sharded_tensor_becomes_whole_and_is_shared_out_again() -> None:
    """With one process, whose part is everything: what two do is in the program."""
    from torch.distributed.tensor import distribute_tensor

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        weight = nn.Parameter(distribute_tensor(torch.arange(6.0).reshape(2, 3), mesh))
        assert torch.equal(whole(weight), torch.arange(6.0).reshape(2, 3))
        again = shared_like(torch.ones(2, 3), weight)
        assert again.placements == weight.placements
        assert torch.equal(whole(again), torch.ones(2, 3))
    finally:
        torch.distributed.destroy_process_group()
