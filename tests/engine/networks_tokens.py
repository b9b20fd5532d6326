"""Random small transformers, for tests of everything that runs networks on tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

from tests.engine.networks import randomise


class SelfAttention(nn.Module):
    """Attention as the field writes it: ``form`` says how query, key and value come apart, and who multiplies."""

    def __init__(self, features: int, heads: int, form: str) -> None:
        super().__init__()
        self.heads, self.form = heads, form
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, features = x.shape
        qkv = self.qkv(x)
        if self.form == "timm":
            qkv = qkv.reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0], qkv[1], qkv[2]
        else:
            q, k, v = (part.view(batch, tokens, self.heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        if self.form == "causal":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.form == "biased":
            bias = torch.arange(tokens * tokens, dtype=torch.float32).reshape(tokens, tokens).sin()
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        elif self.form == "written":
            y = (q * 0.3 @ k.transpose(-2, -1)).softmax(-1) @ v
        elif self.form == "einsum":
            y = torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v)
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, features))


class Block(nn.Module):
    """Attention and a small perceptron, each with a residual; the norm before (``first``) or after."""

    def __init__(self, features: int, heads: int, hidden: int, form: str, first: bool, gelu: bool = True) -> None:
        super().__init__()
        self.attn = SelfAttention(features, heads, form)
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)
        self.fc1, self.fc2 = nn.Linear(features, hidden), nn.Linear(hidden, features)
        self.first, self.activation = first, F.gelu if gelu else torch.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first:
            x = x + self.attn(self.norm1(x))
            return x + self.fc2(self.activation(self.fc1(self.norm2(x))))
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.fc2(self.activation(self.fc1(x))))


class Patches(nn.Module):
    """Patches of an image as tokens, with a class token before them and a position embedding."""

    def __init__(self, channels: int, features: int, patch: int, count: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, features, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, features))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + count, features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj(x).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed


class Pooled(nn.Module):
    """A classifier of the class token, of the mean over tokens, or of all of them; or no classifier."""

    def __init__(self, features: int, pool: str) -> None:
        super().__init__()
        self.norm, self.head, self.pool = nn.LayerNorm(features), nn.Linear(features, 7), pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        if self.pool == "none":
            return x
        return self.head({"class": x[:, 0], "mean": x.mean(1), "all": x}[self.pool])


@st.composite
def transformers(draw) -> tuple[nn.Module, tuple[int, ...]]:
    """A vision transformer on images or a text encoder on tokens, with its input shape."""
    draw(st.random_module())  # torch's numbers too
    heads = draw(st.integers(1, 3))
    features = heads * draw(st.integers(1, 9))
    blocks = [
        Block(
            features,
            heads,
            draw(st.integers(1, 40)),
            draw(st.sampled_from(["timm", "chunk", "causal", "biased", "written", "einsum"])),
            draw(st.booleans()),
            draw(st.booleans()),
        )
        for _ in range(draw(st.integers(1, 2)))
    ]
    shape: tuple[int, ...] = (draw(st.integers(1, 40)), features)
    layers: list[nn.Module] = [*blocks, Pooled(features, draw(st.sampled_from(["class", "mean", "all", "none"])))]
    if draw(st.booleans()):
        patch, rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
        shape = (draw(st.integers(1, 3)), patch * rows, patch * columns)
        layers.insert(0, Patches(shape[0], features, patch, rows * columns))
    model = nn.Sequential(*layers)
    randomise(model, draw(st.integers(0, 10_000)))
    return model.eval(), shape
