"""The encoder of a text transformer: what lies between the embedding of words and the use of the result.

Devlin et al., "BERT", arXiv 1810.04805, in the size of MiniLM-L6 (Wang et al., arXiv 2002.10957), which most small
sentence encoders have.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError


class SelfAttention(nn.Module):
    """Multi-head self-attention over (N, tokens, features), before its output layer."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(features, features)
        self.key = nn.Linear(features, features)
        self.value = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (self._by_head(layer(x)) for layer in (self.query, self.key, self.value))
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(x.shape)

    def _by_head(self, x: Tensor) -> Tensor:
        batch, tokens, features = x.shape
        return x.view(batch, tokens, self.heads, features // self.heads).transpose(1, 2)


class AddNorm(nn.Module):
    """norm(x + dense(y)): the end of both halves of a layer."""

    def __init__(self, in_features: int, features: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, features)
        self.LayerNorm = nn.LayerNorm(features, eps=1e-12)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        normalised: Tensor = self.LayerNorm(x + self.dense(y))
        return normalised


class EncoderLayer(nn.Module):
    """Attention, then a multi-layer perceptron with gelu; each is added to its input, and the sum normalised."""

    def __init__(self, features: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": SelfAttention(features, heads), "output": AddNorm(features, features)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(features, hidden)})
        self.output = AddNorm(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x), x)
        y: Tensor = self.output(F.gelu(self.intermediate["dense"](x)), x)
        return y


class Encoder(nn.Module):
    """(N, tokens, features) -> the same shape, for any number of tokens; every token sees every other.

    The names of the weights (``layer.0.attention.self.query``, ...) are those of BERT's ``encoder`` in Hugging Face's
    checkpoints. Raises `FlexgroupError` where the features do not divide into heads.
    """

    def __init__(self, *, features: int = 384, depth: int = 6, heads: int = 12, hidden: int = 1536) -> None:
        super().__init__()
        if features % heads:
            raise FlexgroupError(
                f"an encoder of {features} features does not divide into {heads} heads; "
                "make features a multiple of heads"
            )
        self.layer = nn.ModuleList(EncoderLayer(features, heads, hidden) for _ in range(depth))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return x


def encoder() -> Encoder:
    """6 layers of 384 features in 12 heads, 10.6 million weights."""
    return Encoder()
