"""``flexgroup eval`` gives the accuracy on the test images, the same from both engines."""

from __future__ import annotations

import pytest

from flexgroup.pruning import accuracy
from flexgroup.zoo import digits_net, load_data, load_weights


@pytest.fixture
def common(digits_weights):
    return ["eval", "--model", "digits_net", "--weights", digits_weights, "--data", "digits"]


@pytest.fixture
def expected(digits_weights) -> float:
    model = digits_net()
    load_weights(model, digits_weights)
    return accuracy(model, *load_data("digits").test())


def test_torch_gives_the_accuracy(flexgroup, common, expected):
    document = flexgroup(*common, "--engine", "torch", "--json").document
    assert document["accuracy"] == expected
    assert document["images"] == 500
    assert document["seconds"] > 0
    assert document["max_logit_difference"] is None


@pytest.mark.parametrize("threads", [1, 2])
def test_the_compiled_network_agrees_with_torch(flexgroup, common, expected, threads):
    document = flexgroup(*common, "--engine", "flexgroup", "--threads", threads, "--json").document
    assert document["torch_accuracy"] == expected
    assert document["accuracy"] == pytest.approx(expected, abs=0.2)
    assert 0 < document["max_logit_difference"] < 1e-3


def test_a_last_batch_may_be_smaller(flexgroup, common, expected):
    assert flexgroup(*common, "--batch-size", 499, "--json").document["images"] == 500


def test_the_result_is_told_in_words(flexgroup, common, expected):
    lines = flexgroup(*common).stdout.splitlines()
    assert lines[0].startswith(f"{expected:.2f} % of 500 images right, flexgroup, ")
    assert lines[1].startswith(f"PyTorch: {expected:.2f} %; largest difference of a logit: ")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--engine", "steam"], "--engine 'steam' is unknown; choose flexgroup or torch"),
        (["--threads", 0], "--threads 0 is too small; give at least 1"),
        (["--batch-size", 0], "--batch-size 0 is too small; give at least 1"),
        (["--data", "mnist"], "data 'mnist' is unknown"),
        (["--model", "resnet20"], "it belongs to another network"),
    ],
)
def test_wrong_input_is_refused(flexgroup, common, options, reason):
    assert reason in flexgroup(*common, *options).reason
