"""The vision transformer of Dosovitskiy et al., 2020, in the tiny size of Touvron et al., 2020.

"An Image is Worth 16x16 Words", arXiv 2010.11929; "Training data-efficient image transformers", arXiv 2012.12877.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexgroup._errors import FlexgroupError


class Attention(nn.Module):
    """Multi-head self-attention over (N, tokens, features); query, key and value come from one linear layer."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, features = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, features // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(query, key, value)
        y: Tensor = self.proj(x.transpose(1, 2).reshape(batch, tokens, features))
        return y


class Mlp(nn.Module):
    """Linear, gelu, linear, for each token."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.fc2 = nn.Linear(hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return y


class Block(nn.Module):
    """x + attention(norm(x)), then the same with the multi-layer perceptron."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(features, eps=1e-6)
        self.attn = Attention(features, heads)
        self.norm2 = nn.LayerNorm(features, eps=1e-6)
        self.mlp = Mlp(features, 4 * features)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class PatchEmbed(nn.Module):
    """(N, 3, H, W) -> (N, patches, features): one linear map of each ``patch x patch`` square."""

    def __init__(self, patch: int, features: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, features, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(x)
        return y.flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """(N, 3, side, side) images -> (N, num_classes) logits, from the class token; the names of the weights are timm's.

    Raises `FlexgroupError` where the image does not divide into patches, or the features into heads.
    """

    def __init__(
        self, *, side: int = 224, patch: int = 16, features: int, depth: int, heads: int, num_classes: int = 1000
    ) -> None:
        super().__init__()
        if side % patch or features % heads:
            raise FlexgroupError(
                f"a vision transformer of side={side}, patch={patch}, features={features}, heads={heads} does not "
                "divide evenly; make side a multiple of patch, and features of heads"
            )
        self.patch_embed = PatchEmbed(patch, features)
        self.cls_token = nn.Parameter(torch.empty(1, 1, features))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (side // patch) ** 2, features))
        self.blocks = nn.Sequential(*(Block(features, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(features, eps=1e-6)
        self.head = nn.Linear(features, num_classes)
        for weight in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


def vit_tiny(*, num_classes: int = 1000) -> VisionTransformer:
    """12 blocks of 192 features in 3 heads, 5.7 million weights."""
    return VisionTransformer(features=192, depth=12, heads=3, num_classes=num_classes)
