"""Whole networks mean the same as a graph as they do in torch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

from flexgroup.graph import Affine, Conv2d, GlobalMean, Linear, from_torch, optimize
from flexgroup.graph.evaluate import evaluate


class Net(nn.Module):
    """A module around a plain function, with layers given by keyword."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def kinds(graph):
    return Counter(type(node.op).__name__ for node in graph.nodes)


@pytest.mark.parametrize("option", ["A", "B"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_cifar_resnet_keeps_its_logits_and_loses_every_batch_norm_relu_and_add(
    cifar_resnet, same_as_torch, option, batch
):
    graph, small = same_as_torch(cifar_resnet(option), torch.randn(batch, 3, 16, 16))
    assert kinds(graph)["Add"] == 4
    assert kinds(graph)["Affine"] == 9 + (option == "B")
    shortcut = {"Slice": 2, "Pad": 1} if option == "A" else {}
    assert kinds(small) == {"Conv2d": 9 + (option == "B"), "GlobalMean": 1, "Linear": 1, **shortcut}


def test_layers_keep_their_names_in_the_module(cifar_resnet):
    model = cifar_resnet("B")
    small = optimize(from_torch(model, (torch.randn(1, 3, 16, 16),)))
    layers = {node.name: node.op for node in small.nodes if isinstance(node.op, Conv2d | Linear)}
    named = {name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert set(layers) == named
    assert layers["layer2.0.shortcut.0"].weight.shape == (16, 8, 1, 1)


def test_nodes_know_the_source_line_of_the_user_not_of_torch(cifar_resnet):
    graph = from_torch(cifar_resnet("A"), (torch.randn(1, 3, 16, 16),))
    assert all(node.source.startswith("conftest.py:") for node in graph.nodes)
    assert all(node.source.endswith(", in forward") for node in graph.nodes)


def test_a_plain_network_with_every_kind_of_pool(same_as_torch):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 12, 3, bias=False),
        nn.BatchNorm2d(12, affine=False),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2, padding=1),
        nn.AdaptiveMaxPool2d(4),
        nn.AdaptiveAvgPool2d((2, 1)),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(24, 16),
        nn.BatchNorm1d(16),
        nn.Hardtanh(-1, 2),
        nn.Identity(),
        nn.Linear(16, 5, bias=False),
    )
    _, small = same_as_torch(model, torch.randn(2, 3, 32, 32))
    assert kinds(small) == {"Conv2d": 2, "MaxPool2d": 2, "AvgPool2d": 2, "Flatten": 1, "Linear": 2}


def test_a_mobilenet_block(same_as_torch):
    def inverted(channels, wide):
        return nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(inplace=True),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(inplace=True),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    model = Net(
        lambda self, x: self.head(torch.flatten(self.pool(x + self.block(x)), 1)),
        block=inverted(8, 24),
        pool=nn.AdaptiveAvgPool2d(1),
        head=nn.Linear(8, 4),
    )
    _, small = same_as_torch(model, torch.randn(1, 8, 9, 7))
    assert kinds(small) == {"Conv2d": 3, "GlobalMean": 1, "Linear": 1}
    clamps = [node.op.clamp for node in small.nodes if isinstance(node.op, Conv2d)]
    assert [(clamp.low, clamp.high) for clamp in clamps] == [(0, 6), (0, 6), (-np.inf, np.inf)]


def test_branches_that_are_concatenated(same_as_torch):
    def forward(self, x):
        x = F.relu(self.stem(x))
        return torch.cat([self.small(x), F.max_pool2d(x, 3, 1, 1), F.relu6(self.large(x))], dim=1)

    model = Net(
        forward,
        stem=nn.Conv2d(3, 4, 3, 2),
        small=nn.Conv2d(4, 6, 1),
        large=nn.Conv2d(4, 2, 5, padding="same"),
    )
    _, small = same_as_torch(model, torch.randn(1, 3, 15, 15))
    assert kinds(small) == {"Conv2d": 3, "MaxPool2d": 1, "Concat": 1}


def test_vectors_and_several_inputs_and_outputs(same_as_torch):
    def forward(self, image, vector):
        features = self.conv(image).mean([2, 3])
        joined = torch.cat([features, self.mlp(vector)], -1)
        return joined[:, 1:7:2], F.relu(joined)

    mlp = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 4))
    model = Net(forward, conv=nn.Conv2d(2, 6, 3), mlp=mlp)
    same_as_torch(model, torch.randn(2, 2, 8, 8), torch.randn(2, 5))


@pytest.mark.parametrize("batch", [1, 2])
def test_every_spelling_of_a_global_mean_becomes_one_node(same_as_torch, batch):
    spellings = (
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        lambda x: F.adaptive_avg_pool2d(x, (1, 1)).squeeze(-1).squeeze(-1),
        lambda x: F.avg_pool2d(x, (6, 8)).view(-1, x.shape[1]),
        lambda x: x.mean((2, 3), keepdim=True).reshape(x.size(0), -1),
        lambda x: x.mean([-1, -2]).unsqueeze(-1).unsqueeze(-1).flatten(1),
        lambda x: x.flatten(2).mean(-1),
        lambda x: x.view(x.shape[0], x.shape[1], -1).mean(2, keepdim=True).squeeze(2),
    )
    model = Net(lambda self, x: tuple(spelling(x) for spelling in spellings))
    _, small = same_as_torch(model, torch.randn(batch, 3, 6, 8))
    assert [type(node.op) for node in small.nodes] == [GlobalMean] * len(spellings)


def test_a_pooled_image_may_be_the_output(same_as_torch):
    same_as_torch(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1)), torch.randn(1, 3, 8, 8))


def test_shortcuts_without_weights(same_as_torch):
    shortcuts = (
        lambda x: torch.cat([x, torch.zeros_like(x)], 1),
        lambda x: torch.cat([x.new_zeros(x.shape), x, torch.zeros(x.shape), torch.zeros(x.shape)], 1),
        lambda x: F.pad(x, (1, 2, 3, 4, 5, 6)),
        lambda x: nn.ZeroPad2d((2, 0, 0, 1))(x)[:, 1:, :-1, 3:],
        lambda x: x[:, -2:, 1:-1:2, ::3],
    )
    model = Net(lambda self, x: tuple(shortcut(x) for shortcut in shortcuts))
    # torch.zeros(x.shape) has the example's batch built in, so compare at that batch.
    graph, _ = same_as_torch(model, torch.randn(2, 4, 6, 8), batch=2)
    assert kinds(graph) == {"Pad": 4, "Slice": 6}


def test_arithmetic_with_constants_is_an_affine_of_the_channels(same_as_torch):
    class Normalise(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), persistent=False)
            self.std = nn.Parameter(torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1))
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = 2 * (x / 255 - self.mean) / self.std
            x = self.conv(1 - torch.add(x, 0.5, alpha=3))
            return torch.sub(x, F.relu(x), alpha=2)

    graph, small = same_as_torch(Normalise(), torch.randn(1, 3, 8, 8))
    assert kinds(graph)["Affine"] == 7
    assert kinds(small)["Affine"] == 2


def test_matrix_products_with_constants_are_linear_layers(same_as_torch):
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 4))
            self.bias = nn.Parameter(torch.randn(4))

        def forward(self, x):
            return torch.addmm(self.bias, x, self.weight, beta=2, alpha=3), x @ self.weight, x.mm(self.weight)

    graph, _ = same_as_torch(Products(), torch.randn(2, 6))
    assert kinds(graph) == {"Linear": 3}


def test_the_general_convolution_operator(same_as_torch):
    weight, bias = torch.randn(4, 1, 3, 3), torch.randn(4)
    model = Net(lambda self, x: torch.convolution(x, weight, bias, (2, 1), (1, 0), (1, 1), False, (0, 0), 4))
    graph, _ = same_as_torch(model, torch.randn(1, 4, 8, 8))
    assert graph.nodes[0].op.padding == (1, 1, 0, 0)


def test_a_layer_that_runs_twice_has_two_names(same_as_torch):
    conv, relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()
    graph, _ = same_as_torch(nn.Sequential(conv, relu, conv, relu), torch.randn(1, 3, 8, 8))
    assert [node.name for node in graph.nodes] == ["0", "1", "0#2", "1#2"]


class Mask(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


def half(layer):
    return (torch.rand_like(layer.weight) < 0.5).float()


def test_parametrized_weights_become_their_present_values(same_as_torch):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    mask = half(model[0])
    parametrize.register_parametrization(model[0], "weight", Mask(mask))
    nn.utils.parametrizations.weight_norm(model[2])
    graph, _ = same_as_torch(model, torch.randn(1, 3, 8, 8))
    assert [node.name for node in graph.nodes] == ["0", "1", "2"]
    np.testing.assert_array_equal(graph.nodes[0].op.weight, (model[0].weight).detach().numpy())
    np.testing.assert_array_equal(graph.nodes[0].op.weight != 0, mask.numpy() != 0)


def test_masks_of_torch_prune_are_applied(same_as_torch):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    prune.l1_unstructured(model[0], "weight", 0.75)
    graph, _ = same_as_torch(model, torch.randn(1, 3, 8, 8))
    assert (graph.nodes[0].op.weight == 0).mean() == 0.75


def test_tied_weights(same_as_torch):
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    graph, _ = same_as_torch(nn.Sequential(first, nn.ReLU(), second), torch.randn(1, 6))
    np.testing.assert_array_equal(graph.nodes[0].op.weight, graph.nodes[2].op.weight)


def test_the_model_stays_as_it_was_and_the_graph_too_when_training_goes_on(cifar_resnet):
    model = cifar_resnet("A").train()
    model.layer1.eval()
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    flags = {name: layer.training for name, layer in model.named_modules()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph = from_torch(model, (torch.randn(2, 3, 16, 16),))
    assert {name: layer.training for name, layer in model.named_modules()} == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert type(model.conv1.weight) is torch.Tensor

    x = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    first = evaluate(graph, (x,))[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(evaluate(graph, (x,))[0], first)


def test_batch_norm_is_folded_in_double_precision(same_as_torch):
    layer = nn.BatchNorm2d(64, eps=1e-3)
    graph, _ = same_as_torch(layer, torch.randn(1, 64, 2, 2))
    affine = graph.nodes[0].op
    assert isinstance(affine, Affine)
    scale = layer.weight.double() / torch.sqrt(layer.running_var.double() + 1e-3)
    np.testing.assert_array_equal(affine.scale, scale.float().detach().numpy())
    shift = layer.bias.double() - layer.running_mean.double() * scale
    np.testing.assert_array_equal(affine.shift, shift.float().detach().numpy())


def test_what_torch_compile_wraps_has_the_names_of_the_user():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    graph = from_torch(torch.compile(model), (torch.randn(1, 3, 8, 8),))
    assert [node.name for node in graph.nodes] == ["0", "1"]
